"""Texts of findings, by kind; further clauses follow the sentence that they complete."""

from edlm.evaluation.likelihood.published import WARNING
from edlm.evaluation.samples.mauve import FEW

TEXTS = {
    # Headlines
    "gain": "With {passes} in {order} order, {name} lowers the bound by {gain:3} nats per token beyond {rival}",
    "over_base": " ({over_base:.3f} over the base)",
    "no_gain_at": ", and shows no gain at {without} passes",
    "uncontrolled": "; no control was measured, so part of it may be a correction of the marginals",
    "no_gain": "No gain: no method's bound is below {rivals} by more than chance allows "
    "(the best, {name} with {passes} in {order} order, by {gain:3} nats per token)",
    "only_base": "Nothing was measured in addition to the base, so nothing can be said of a gain",
    "only_proposals": "No energy was measured, only proposals other than the base, so nothing can be said of its gain",
    "only_controls": "No energy was measured but controls, so nothing can be said of a gain beyond them",
    "single_row": "A single row was measured, which has no spread, so nothing can be said of a gain",
    # Conclusions
    "faster": "{name} ({order} order) reaches the bound of {than} ({than_order} order, {than_steps} passes) "
    "in {share:2} of its time",
    "order_alone": "; the base in that order alone in {alone:2}",
    "frontier": "To the judge, {name} ({order} order, {num_steps} passes{at}) is {said}",
    "by": " ({difference:+3} nats per token)",
    "below_elsewhere": "; at temperature {below} it is below",
    # Cautions
    "published_formula": WARNING.removesuffix("."),
    "published_below_base": ". Here it puts {name} {below:.3f} nats per token below what it gives the base, which is "
    "no gain: see the bounds",
    "published_untrusted": "Its log Z is from too few draws for such a spread of energies for {names}: there even the "
    "upper estimate may be too low, which makes the number look better than it is",
    "judge_is_energy": "The judge ({name}) is the energy of {energies}: their losses are no evidence of quality",
    "few_effective": "Small effective sample size of whole-step candidates: {energies}. A few candidates carry all the "
    "weight; more of them, smaller groups or exact decisions are needed",
    "log_z_untrusted": "The upper bound of log Z is not to be trusted for {energies}: with energies so far apart it "
    "can lie below log Z",
    "few_rows": "Only {rows}: errors are large, and errors of errors too",
    "few_samples": "Only {samples} of each setting: entropy, distinct-2 and judge losses are rough",
    "few_batches": "Seconds are of {batches} of {which}: too few to know how they scatter",
    "loose_bound": "At sequence scope the bound of one draw is very loose, and says little of {methods}: set "
    "inner_draws to 16",
    "sampled_steps": "Some gains are estimated from some of the steps of each row",
    "mauve_biased": f"MAUVE of {{texts}} samples and {{references}} held-out texts (fewer than {FEW}) is biased: "
    "compare it only with values of as many",
    "mauve_sizes": "MAUVE needs sets of one size, got {texts} samples and {references} held-out texts",
    "earlier_calls": "Some numbers were kept from earlier calls, at another revision or on another machine "
    "({revisions})",
    "outside_entropies": "{outside} of {points} points lie outside of the entropies that the base reaches at these "
    "temperatures: they are not judged, since nothing is extrapolated",
    "judge_cut": "The judge read only the beginning of {cut} of {samples} samples, which do not fit its context",
}
