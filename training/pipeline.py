"""Train and measure everything in a number of minutes. Same as `edlm train all`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "all", *sys.argv[1:]]))
