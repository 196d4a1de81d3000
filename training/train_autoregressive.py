"""Train a causal language model. Same as `edlm train autoregressive`."""

import sys

from edlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "autoregressive", *sys.argv[1:]]))
