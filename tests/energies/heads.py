"""Tiny denoisers and heads whose weights are far from their start, and three ways to get a head's ``log q``."""

import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.diffusion.slots import Slots
from edlm.energies import Decision, ResidualHead, ScalarHead, Step
from edlm.energies.proposal import make_decision

VOCAB_SIZE = MASK = 4  # real tokens are 0..3
NUM_LAYERS = 4
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}


def modernbert(seed: int = 0, **settings) -> MaskedLMDenoiser:
    """Global attention, no dropout, weights large enough for sharp marginals."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    shape = {"num_hidden_layers": NUM_LAYERS, "global_attn_every_n_layers": 1, "initializer_range": 0.4}
    torch.manual_seed(seed)
    config = ModernBertConfig(
        **{"vocab_size": VOCAB_SIZE + 1, "pad_token_id": None, **special, **SIZES, **shape, **settings}
    )
    model = ModernBertForMaskedLM(config).eval()
    for weight in model.parameters():
        if weight.ndim == 1:  # norms and biases, which start at one and zero
            weight.data += 0.3 * torch.randn(weight.shape)
    return MaskedLMDenoiser(model, mask_token_id=MASK)


def bert(seed: int = 0) -> MaskedLMDenoiser:
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=VOCAB_SIZE + 1, num_hidden_layers=2, initializer_range=0.4, **SIZES)
    return MaskedLMDenoiser(BertForMaskedLM(config).eval(), mask_token_id=MASK)


def new_head(denoiser: MaskedLMDenoiser, form: str = "normalized", **settings) -> ResidualHead | ScalarHead:
    torch.manual_seed(7)
    return {"normalized": ResidualHead, "unnormalized": ScalarHead}[form].from_denoiser(denoiser, **settings).eval()


def disturbed_head(denoiser: MaskedLMDenoiser, scale: float = 0.4, **settings) -> ResidualHead | ScalarHead:
    """As if trained: every weight is moved at random, so that nothing is zero or a copy any more."""
    head = new_head(denoiser, **settings)
    for weight in head.parameters():
        weight.data += scale * torch.randn(weight.shape)
    return head


def ranked(*rows: tuple[int, ...]) -> Slots:
    """Slots at the positions given for each row, in that decision order."""
    flat = [(row, position, rank) for row, order in enumerate(rows) for rank, position in enumerate(order)]
    columns = torch.tensor(flat, dtype=torch.long).view(-1, 3).T
    return Slots(*columns, batch_size=len(rows))


def step_on(denoiser: MaskedLMDenoiser, x_t: Tensor, slots: Slots, attention_mask: Tensor | None = None) -> Step:
    """A step as the sampler makes it: rows that decide nothing are not encoded."""
    t, rows = torch.ones(len(x_t)), slots.counts.nonzero()[:, 0]
    encoding = denoiser.encode(x_t, t, attention_mask, rows=rows, keep_hidden=True)
    return Step(denoiser, x_t, t, encoding, slots, attention_mask)


def decision_of(step: Step, tokens: Tensor, slots: Slots | None = None, x_partial: Tensor | None = None) -> Decision:
    """Candidates ``tokens[num_slots, k]`` at the slots (all of the step by default)."""
    slots = step.slots if slots is None else slots
    x_partial = step.x_t if x_partial is None else x_partial
    return make_decision(step, slots, x_partial, step.denoiser.slot_log_probs(step.encoding, slots), tokens)


def decisions_in_groups(step: Step, tokens: Tensor, group_size: int | None) -> list[Decision]:
    """The decisions of a step that writes candidate 0 of ``tokens[num_slots, k]`` at every group."""
    x_partial, decisions = step.x_t, []
    whole = step.slots.write(step.x_t, tokens[:, 0])
    for group in step.slots.groups(group_size):
        index = [_find(step.slots, r, p) for r, p in zip(group.rows.tolist(), group.positions.tolist(), strict=True)]
        decisions.append(decision_of(step, tokens[index], group, x_partial))
        x_partial = group.write(x_partial, group.gather(whole))
    return decisions


def _find(slots: Slots, row: int, position: int) -> int:
    return ((slots.rows == row) & (slots.positions == position)).nonzero().item()


@torch.no_grad()
def log_q(way: str | int, head: ResidualHead, step: Step, tokens: Tensor) -> Tensor:
    """``log q(. | x_t, the step's earlier tokens)`` at each slot, ``[num_slots, vocab_size + 1]``.

    Ways: "forward" (whole step, teacher-forced), "exact" (one rank after the other, cached), or a group size.
    In the teacher-forced ways, the laws that the head makes are listened to.
    """
    if way == "exact":
        state, x_partial, found = head.start(step), step.x_t, {}
        whole = step.slots.write(step.x_t, tokens)
        for rank in step.slots.groups(1):
            logits = head.next_logits(state, x_partial, rank)
            found |= _by_place(rank, step.denoiser.normalize(logits))
            x_partial = rank.write(x_partial, rank.gather(whole))
    else:
        found = {}
        for decision in decisions_in_groups(step, tokens[:, None], None if way == "forward" else way):
            heard, law_of = [], head._law
            head._law = lambda *args: heard.append(law_of(*args)) or heard[-1]  # noqa: B023
            try:
                head(decision)
            finally:
                del head._law
            found |= _by_place(decision.slots, torch.cat([law.log_probs() for law in heard]))
    places = zip(step.slots.rows.tolist(), step.slots.positions.tolist(), strict=True)
    return torch.stack([found[place] for place in places])


def _by_place(slots: Slots, values: Tensor) -> dict[tuple[int, int], Tensor]:
    assert len(slots) == len(values)
    return dict(zip(zip(slots.rows.tolist(), slots.positions.tolist(), strict=True), values, strict=True))
