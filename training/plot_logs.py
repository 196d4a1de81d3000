"""Draw the validation losses of training runs. Same as `edlm plot logs`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["plot", "logs", *sys.argv[1:]]))
