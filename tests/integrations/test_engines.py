"""SGLang, vLLM and dllm-plugin: stand-ins of the signatures that they publish, with loops like theirs."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from edlm import CallableEnergy
from edlm.integrations.confidence import surest
from edlm.integrations.dllm_plugin import RerankPolicy
from edlm.integrations.sglang import rerank_algorithm
from edlm.integrations.vllm import RerankSampler, rerank_model_state
from tests.energies.heads import disturbed_head, modernbert

SIZE, BLOCK, MASK = 8, 4, 7
loves_5 = CallableEnergy(lambda candidates, x, log_p: -4.0 * (candidates == 5).sum(-1))
GREEDY = {"num_candidates": 1, "top_k": 1}


def network(blocks: torch.Tensor) -> torch.Tensor:
    """Logits ``[batch, block, vocab_size]`` that depend on all tokens of the block; the mask is all but impossible."""
    table = torch.randn(SIZE, BLOCK, SIZE, generator=torch.Generator().manual_seed(0))
    logits = 0.5 * table[blocks].sum(1)
    logits[..., MASK] = -1e4
    return logits


def test_surest_positions_are_above_the_threshold_or_the_most_likely():
    logits = torch.tensor([[[0.0, 0.0], [9.0, 0.0], [5.0, 0.0], [0.0, 5.0]]])
    masked = torch.tensor([[True, True, True, True]])
    chosen = lambda *options: surest(logits, masked, 2, *options)[0].long().tolist()  # noqa: E731
    assert chosen(0.99) == [0, 1, 1, 1] and chosen(0.999) == [0, 1, 0, 0]
    assert chosen(0.999, 2) == [0, 1, 1, 0]  # of equal ones the leftmost
    assert chosen(2.0) == [0, 1, 0, 0] and chosen(2.0, 3) == [0, 1, 1, 1] and chosen(2.0, 9) == [1, 1, 1, 1]
    masked[0, 1] = False
    assert chosen(0.9) == [0, 0, 1, 1] and chosen(2.0) == [0, 0, 1, 0]
    assert not surest(logits, torch.zeros_like(masked), 2, 0.5).any()


# SGLang


class DllmAlgorithm:
    """Stand-in of ``sglang.srt.dllm.algorithm.base.DllmAlgorithm``."""

    def __init__(self, config):
        self.block_size, self.mask_id = config.block_size, config.mask_id

    def step(self, forward_batch, logits_output, states):
        raise NotImplementedError


class LowConfidence(DllmAlgorithm):
    """What SGLang's algorithm of this name does, for one block at a time."""

    def step(self, forward_batch, logits_output, states):
        blocks = forward_batch.input_ids.view(-1, self.block_size)
        done = [bool((block != self.mask_id).all()) for block in blocks]
        for block, logits in zip(blocks, logits_output.full_logits.view(-1, self.block_size, SIZE), strict=True):
            p, likeliest = logits.softmax(-1).max(-1)
            p = torch.where(block == self.mask_id, p, -1.0)
            chosen = p > 0.4 if (p > 0.4).any() else torch.arange(self.block_size) == p.argmax()
            chosen &= block == self.mask_id
            block[chosen] = likeliest[chosen]
        return done


CONFIG = SimpleNamespace(block_size=BLOCK, mask_id=MASK, algorithm_config={"threshold": 0.4})


def serve(algorithm, blocks, wrapped=True):
    """The loop of ``DllmAlgorithm.run``: until all blocks are done."""
    batch = SimpleNamespace(batch_size=len(blocks), input_ids=blocks.flatten().clone())
    pointer, states = batch.input_ids.data_ptr(), [None] * len(blocks)
    for passes in range(1, BLOCK + 2):  # noqa: B007
        logits = network(batch.input_ids.view(blocks.shape)).view(-1, SIZE)
        if all(algorithm.step(batch, SimpleNamespace(full_logits=logits) if wrapped else logits, states)):
            break
    assert batch.input_ids.data_ptr() == pointer
    return batch.input_ids.view(blocks.shape), passes


BLOCKS = torch.tensor([[1, 2, MASK, MASK], [MASK] * 4, [3, 0, 1, 2], [MASK, 4, MASK, 6]]).repeat(10, 1)


def test_sglang_with_one_greedy_candidate_is_low_confidence():
    ours, passes = serve(rerank_algorithm(DllmAlgorithm, loves_5, **GREEDY)(CONFIG), BLOCKS)
    theirs, expected = serve(LowConfidence(CONFIG), BLOCKS)
    assert torch.equal(ours, theirs) and passes == expected
    assert torch.equal(serve(rerank_algorithm(DllmAlgorithm, None, **GREEDY)(CONFIG), BLOCKS, wrapped=False)[0], ours)


def test_sglang_writes_what_the_energy_likes_and_keeps_prompts():
    made = rerank_algorithm(DllmAlgorithm, loves_5, num_candidates=16)
    assert made.__name__ == "EnergyRerank" and issubclass(made, DllmAlgorithm)
    ours, _ = serve(made(CONFIG), BLOCKS)
    again, _ = serve(made(CONFIG), BLOCKS)
    base, _ = serve(rerank_algorithm(DllmAlgorithm, None)(CONFIG), BLOCKS)
    assert torch.equal(ours, again) and MASK not in ours
    assert torch.equal(ours[BLOCKS != MASK], BLOCKS[BLOCKS != MASK])
    assert (ours == 5).sum() > 1.5 * (base == 5).sum()


# dllm-plugin


@dataclass(frozen=True)
class RemaskStepResult:
    """Stand-in of ``dllm_plugin.remasking.base.RemaskStepResult``."""

    committed_token_ids: tuple
    next_input_block: tuple


@pytest.fixture
def plugin(monkeypatch):
    for name in ("dllm_plugin", "dllm_plugin.remasking", "dllm_plugin.remasking.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["dllm_plugin.remasking.base"].RemaskStepResult = RemaskStepResult


def remask(policy, block, **config):
    """Steps until a block is committed, as the plugin's worker takes them."""
    drafts = []
    for step in range(BLOCK):
        logits = network(torch.tensor([block]))[0]
        given = {"denoise_step_index": step, "denoise_steps": 2, **config}
        result = policy.apply(input_draft=block, logits=logits, remasking_config=given)
        assert isinstance(result, RemaskStepResult) and len(result.next_input_block) == BLOCK
        if result.committed_token_ids:
            assert result.next_input_block == (MASK,) * BLOCK
            return list(result.committed_token_ids), drafts
        block = list(result.next_input_block)
        drafts.append(block)
    raise AssertionError("no block was committed")


def test_dllm_plugin_transfers_as_the_default_policy(plugin):
    policy = RerankPolicy(MASK, loves_5, **GREEDY)
    written, drafts = remask(policy, [1, MASK, MASK, MASK], commit_confidence_threshold=2.0)
    expected = torch.tensor([1, MASK, MASK, MASK])
    for i in range(2):
        p, likeliest = network(expected[None])[0].softmax(-1).max(-1)
        sure = torch.where(expected == MASK, p, -1.0).argsort(descending=True, stable=True)[: 2 - i]
        expected[sure] = likeliest[sure]
        assert i or drafts[0] == expected.tolist()
    assert written == expected.tolist() and len(drafts) == 1
    given, _ = remask(policy, [1, 2, 3, 4])
    assert given == [1, 2, 3, 4]
    assert len(remask(policy, [MASK] * 4, commit_confidence_threshold=2.0, num_transfer=1)[1]) == 3
    assert not remask(policy, [MASK] * 4, commit_confidence_threshold=0.0)[1]  # all at once
    assert not remask(policy, [MASK] * 4, num_transfer=1, grammar_extra_transfer=3, commit_confidence_threshold=2.0)[1]


def test_dllm_plugin_writes_what_the_energy_likes(plugin):
    number = [0, 0]
    for seed in range(40):
        for i, energy in enumerate((loves_5, None)):
            policy = RerankPolicy(MASK, energy, seed=seed, **({} if energy is None else {"num_candidates": 16}))
            written, _ = remask(policy, [1, MASK, MASK, MASK])
            assert written[0] == 1 and MASK not in written
            number[i] += written.count(5)
    assert number[0] > 1.5 * number[1]
    with pytest.raises(ValueError, match="logits must be given where masks are to be filled, got None"):
        policy.apply(input_draft=[MASK] * 4)


# vLLM


class MaskedDiffusionSampler:
    """Stand-in of vLLM's: reveals the surer half of a canvas, or all of it, and counts its requests."""

    def __init__(self, states, temperature=0.0):
        self.diffusion_states, self.temperature, self.requests, self.seen = states, temperature, [], []

    def add_request(self, req_idx, sampling_params):
        self.requests.append(req_idx)

    def __call__(self, logits, input_batch, draft_logits=None):
        self.seen.append(logits)
        if input_batch.num_draft_tokens == 0:
            return "prefill"
        counts = np.diff(input_batch.cu_num_logits_np)
        start = 0
        for slot, count in zip(input_batch.idx_mapping_np, counts, strict=True):
            own, canvas = logits[start : start + count], self.diffusion_states.canvas[slot]
            start += count
            if not count or self.diffusion_states.is_encoder_phase[slot]:
                continue
            p, likeliest = own.softmax(-1).max(-1)
            p = torch.where(canvas[:count] == MASK, p, -1.0)
            number = max(1, int((canvas[:count] == MASK).sum()) // 2)
            chosen = p.argsort(descending=True, stable=True)[:number]
            canvas[chosen] = torch.where(canvas[chosen] == MASK, likeliest[chosen], canvas[chosen])
        return "denoised"


class ModelState:
    """Stand-in of a model state of vLLM, with the published hook."""

    temperature = 0.0

    def __init__(self, canvas):
        phases = torch.tensor([False, False, True, False] * (len(canvas) // 4))
        self.states = SimpleNamespace(canvas=canvas.clone(), is_encoder_phase=phases, mask_token_id=MASK)

    def custom_sampler(self, sampler):
        return MaskedDiffusionSampler(self.states, self.temperature), None


def denoise(state, slots=None, steps=3):
    sampler, rejection = state.custom_sampler(sampler=None)
    assert rejection is None
    slots = np.arange(len(state.states.canvas)) if slots is None else np.array(slots)
    counts = np.array([BLOCK if slot % 4 != 3 else 2 for slot in slots])  # the fourth is cut at its maximum length
    for _ in range(steps):
        tables = network(state.states.canvas[slots])
        logits = torch.cat([table[:count] for table, count in zip(tables, counts, strict=True)])
        bounds = np.concatenate([[0], counts.cumsum()])
        batch = SimpleNamespace(
            num_reqs=len(slots), num_draft_tokens=int(counts.sum()), idx_mapping_np=slots, cu_num_logits_np=bounds
        )
        assert sampler(logits, batch) == "denoised"
    return sampler, state.states.canvas


CANVAS = torch.tensor([[MASK] * 4, [1, MASK, MASK, 2], [MASK, 1, 1, 1], [MASK, MASK, MASK, MASK]]).repeat(10, 1)


def test_vllm_with_one_greedy_candidate_is_the_models_own_sampler():
    slots = [5, 0, 3, 2, 1]
    ours = denoise(rerank_model_state(ModelState, loves_5, **GREEDY)(CANVAS), slots)[1]
    theirs = denoise(ModelState(CANVAS), slots)[1]
    assert torch.equal(ours, theirs) and not torch.equal(ours, CANVAS)


def test_vllm_writes_what_the_energy_likes():
    canvases = []
    for energy, options in ((loves_5, {"num_candidates": 16}), (None, {})):
        state = rerank_model_state(ModelState, energy, **options)(CANVAS)
        sampler, canvas = denoise(state)
        assert torch.equal(canvas[2::4], CANVAS[2::4])  # a request that commits is left alone
        assert (canvas[3::4, 2:] == MASK).all() and (canvas[3::4, :2] != MASK).all()  # beyond its maximum length
        assert (canvas[:2] != MASK).all() and torch.equal(canvas[1::4, [0, 3]], CANVAS[1::4, [0, 3]])
        canvases.append(canvas)
    assert (canvases[0] == 5).sum() > 1.5 * (canvases[1] == 5).sum()
    sampler.add_request(3, None)
    assert sampler.requests == [3] and isinstance(sampler, RerankSampler)
    logits = torch.zeros(3, SIZE)
    assert sampler(logits, SimpleNamespace(num_draft_tokens=0)) == "prefill" and sampler.seen[-1] is logits


def test_mistakes_are_errors_of_one_line():
    hot, none = (
        type("Hot", (ModelState,), {"temperature": 0.5}),
        type("Plain", (), {"custom_sampler": lambda s, x: None}),
    )
    head = disturbed_head(modernbert())
    for make, message in (
        (lambda: rerank_model_state(hot, None)(CANVAS).custom_sampler(None), "diffusion temperature must be 0 .* 0.5"),
        (lambda: rerank_model_state(none, None)().custom_sampler(None), "Plain must have a masked diffusion sampler"),
        (lambda: denoise(rerank_model_state(ModelState, head)(CANVAS)), "ResidualHead reads hidden states"),
        (lambda: rerank_algorithm(DllmAlgorithm, None, on_impossible="keep"), "'raise' or 'redraw'"),
        (lambda: rerank_algorithm(DllmAlgorithm, None, num_candidate=3), "did you mean 'num_candidates'"),
        (lambda: RerankPolicy(MASK, None, treshold=3), "has no option 'treshold'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
