"""Train a denoiser. Same as `edlm train denoiser`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "denoiser", *sys.argv[1:]]))
