"""Score texts. Same as `edlm score`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
