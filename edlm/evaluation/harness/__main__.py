"""lm-evaluation-harness with the model "edlm": ``python -m edlm.evaluation.harness run --model edlm ...``."""

from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    cli_evaluate()
