"""Train an energy for a denoiser. Same as `edlm train energy`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "energy", *sys.argv[1:]]))
