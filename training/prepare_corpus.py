"""Turn text into blocks of tokens. Same as `edlm prepare corpus`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "corpus", *sys.argv[1:]]))
