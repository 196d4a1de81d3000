"""Generate rows of text into a file, by any number of processes. Same as `edlm generate`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
