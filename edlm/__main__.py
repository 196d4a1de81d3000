"""`python -m edlm` is `edlm`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
