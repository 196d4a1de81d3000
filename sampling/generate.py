"""Write text with a denoiser and an energy. Same as `edlm sample`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
