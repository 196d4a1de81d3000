"""Choose among finished texts. Same as `edlm rerank`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["rerank", *sys.argv[1:]]))
