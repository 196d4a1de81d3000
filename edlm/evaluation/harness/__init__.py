"""The model "edlm" of lm-evaluation-harness, which the extra "harness" installs.

Importing this registers it, so that ``lm_eval.simple_evaluate(model="edlm", ...)`` knows it. Versions of lm-eval that
look for entry points (after 0.4.13) know it at once, ``lm_eval run --model edlm ...``; for all of them there is
``python -m edlm.evaluation.harness run --model edlm ...``, which takes the same arguments.
"""

from edlm.evaluation.harness.model import HarnessModel

__all__ = ["HarnessModel"]
