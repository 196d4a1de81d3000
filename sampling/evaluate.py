"""Measure likelihood and text quality. Same as `edlm evaluate`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
