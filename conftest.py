"""Modules that need an extra are looked through for doctests only where it is installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("lm_eval") else ["edlm/evaluation/harness/*"]
