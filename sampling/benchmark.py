"""Compare the speed of samplers. Same as `edlm benchmark`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
