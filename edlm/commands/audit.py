"""``edlm audit``: does a sampler follow the law of a language whose truth is known?"""

import importlib
import os
import sys
import time
from dataclasses import dataclass, field

from edlm.commands.terminal import print_table
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.evaluation.experiment.provenance import write_result
from edlm.evaluation.languages.audit import audit, reference_chain
from edlm.evaluation.languages.audited import SAMPLERS, Audited
from edlm.evaluation.languages.exact import Language
from edlm.rules import Config


@dataclass(frozen=True)
class AuditConfig(Config):
    """A sampler, and the language on which it is audited.

    Args:
        sampler: ``MODULE:FUNCTION``, of ``(denoiser, x_t, seeds)``, which returns ``x_t`` with its masks filled; the
            denoiser gives marginals by ``denoiser.log_probs(x_t)`` (guide.md has an example). Or one of ours: "base"
            (one token a pass), "few_passes" (two passes without an energy, which do not follow the law), "exact" (the
            exact energy, two passes), "candidates" (16 of them, against their own law), "rerank_step", "rerank_logits"
            and "dream" (in loops of others).
        language: The truth; null for a chain of 3 symbols. It must have few sequences.
        length: Tokens of a sequence.
        num_samples: Sequences that are drawn.
        batch_size: Rows of a call of the sampler.
        seed: Of the first sequence.
        output: JSON file to write; none by default.
    """

    sampler: str
    language: LanguageConfig | None = None
    length: int = 4
    num_samples: int = field(default=2000, metadata={"least": 100})
    batch_size: int = 200
    seed: int = 0
    output: str | None = None


def run(config: AuditConfig) -> None:
    """Print a verdict for each check, and write JSON; the exit code is 1 if a check failed."""
    started = time.perf_counter()
    language = reference_chain() if config.language is None else build_language(config.language)
    audited = _sampler(config.sampler, language, config.length)
    options = {name: getattr(config, name) for name in ("length", "num_samples", "batch_size", "seed")}
    report = audit(audited.sampler, language, law=audited.law, **options)
    columns = {
        "check": lambda verdict: verdict.name,
        "verdict": lambda verdict: verdict.mark,
        "found": lambda verdict: verdict.text,
    }
    print_table(f"audit of {config.sampler}", report.verdicts, columns)
    print(str(report).splitlines()[-1])
    if config.output:
        distances = {"total_variation": report.total_variation, "kl_nats": report.kl, "error_rate": report.error_rate}
        write_result(
            config.output,
            config,
            seconds=time.perf_counter() - started,
            passed=report.passed,
            verdicts=[vars(verdict) for verdict in report.verdicts],
            passes=report.passes,
            law_error_rate=report.law_error_rate,
            distance_to_truth=report.distance_to_truth,
            **{name: estimate._asdict() for name, estimate in distances.items()},
        )
    if not report.passed:
        raise SystemExit(1)


def _sampler(name: str, language: Language, length: int) -> Audited:
    """One of ours, or a function of a module, which may lie in the current folder."""
    if name in SAMPLERS:
        return SAMPLERS[name](language, length)
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"sampler must be MODULE:FUNCTION or one of {', '.join(SAMPLERS)}, got {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise ValueError(f"sampler must name a module that can be imported, got {name!r}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found):
        raise ValueError(f"sampler must name a function of {module}, got {function!r}")
    return Audited(found)
