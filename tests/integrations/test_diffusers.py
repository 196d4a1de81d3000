"""Inside the real ``LLaDA2Pipeline`` of diffusers, on a tiny random network and a tokenizer of a few words."""

from types import SimpleNamespace

import pytest
import torch

from edlm import CallableEnergy
from edlm.integrations.diffusers import RerankCallback, RerankScheduler
from edlm.integrations.passes import run_pass
from tests.chance import assert_law
from tests.energies.heads import disturbed_head, modernbert
from tests.test_readme import tokenizer_of

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: the extra integrations")
pytest.importorskip("diffusers.pipelines.llada2", reason="this diffusers has no LLaDA2Pipeline")

SIZE, MASK, EOS, PAD, BLOCK = 12, 11, 9, 8, 4
SPECIAL = {"mask": MASK, "eos": EOS, "pad": PAD}
PROMPTS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]])
loves_7 = CallableEnergy(lambda candidates, x, log_p: -4.0 * (candidates == 7).sum(-1))
constant = CallableEnergy(lambda candidates, x, log_p: 0.0 * log_p)


@pytest.fixture(scope="module")
def denoiser():
    made = modernbert(vocab_size=SIZE, max_position_embeddings=32, mask_token_id=MASK)
    made.network.decoder.bias.data[MASK] = -1e4  # the pipeline itself would write masks
    return type(made)(made.network, mask_token_id=MASK)


def run(denoiser, scheduler=None, prompts=PROMPTS, **options):
    scheduler = scheduler or diffusers.BlockRefinementScheduler(block_length=BLOCK)
    pipeline = diffusers.LLaDA2Pipeline(denoiser.network, scheduler, tokenizer_of(SIZE, SPECIAL))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(options.pop("seed", 0))
    call = {"input_ids": prompts, "gen_length": 8, "num_inference_steps": 2, "threshold": 2.0, "output_type": "seq"}
    call |= {"eos_early_stop": False, "editing_threshold": None, "block_length": BLOCK, "generator": generator}
    return pipeline(**{**call, **options}).sequences


def reranking(energy, k, **options):
    return RerankScheduler(diffusers.BlockRefinementScheduler(block_length=BLOCK), energy, k, **options)


def callback_options(callback):
    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": list(callback.tensor_inputs)}


@pytest.mark.parametrize("editing", [None, 0.3])
def test_one_greedy_candidate_is_the_pipeline_itself(denoiser, editing):
    base = run(denoiser, editing_threshold=editing)
    assert torch.equal(base, run(denoiser, reranking(constant, 1), editing_threshold=editing))
    callback = RerankCallback(denoiser, constant, num_candidates=1, top_k=1, keep_eos=False)
    if editing is None:
        assert torch.equal(base, run(denoiser, **callback_options(callback)))
    assert base.shape == (2, 8) and MASK not in base


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 4}])
def test_a_scheduler_with_one_candidate_keeps_the_law(denoiser, options):
    """A block of two: counts of both pairs of tokens, from the pipeline and from the scheduler."""
    rows, size = 4000, {"gen_length": 2, "block_length": 2, "num_inference_steps": 2}
    prompts = PROMPTS[:1, :2].expand(rows, -1)
    base = run(denoiser, prompts=prompts, **size, **options)
    ours = run(denoiser, reranking(constant, 1), prompts=prompts, seed=1, **size, **options)
    pairs = [torch.bincount(x[:, 0] * SIZE + x[:, 1], minlength=SIZE**2).double() for x in (base, ours)]
    law = (pairs[0] + pairs[1]) / (2 * rows)
    assert_law(pairs[1], law)
    assert_law(pairs[0], law)
    likes = run(denoiser, reranking(loves_7, 8), prompts=prompts, seed=1, **size, **options)
    assert (likes == 7).float().mean() > 2 * (base == 7).float().mean()


@pytest.mark.parametrize("way", ["scheduler", "callback"])
def test_an_energy_moves_the_text_and_prompts_stay(denoiser, way):
    prompts = PROMPTS.repeat(20, 1)
    seen = []

    def noted(candidates, x, log_p):
        seen.append(candidates)
        return -4.0 * (candidates == 7).sum(-1)

    base = run(denoiser, prompts=prompts, temperature=1.0)
    if way == "scheduler":
        ours = run(denoiser, reranking(CallableEnergy(noted), 16), prompts=prompts, temperature=1.0)
        assert all(candidates.shape[2] == BLOCK for candidates in seen)
    else:
        generator = torch.Generator().manual_seed(0)
        callback = RerankCallback(denoiser, CallableEnergy(noted), num_candidates=16, generator=generator)
        ours = run(denoiser, prompts=prompts, temperature=1.0, **callback_options(callback))
        assert all(torch.equal(candidates[:, 0, :4], prompts) for candidates in seen)
        assert [candidates.shape[2] for candidates in seen] == [8, 8, 12, 12]
    assert MASK not in ours and (ours == 7).float().mean() > 2 * (base == 7).float().mean()


def test_a_callback_runs_a_trained_head_on_the_states(denoiser):
    head = disturbed_head(denoiser)
    ways = []
    for energy in (None, head, head):
        generator = torch.Generator().manual_seed(3)
        callback = RerankCallback(denoiser, energy, generator=generator)
        ways.append(run(denoiser, temperature=1.0, **callback_options(callback)))
    assert torch.equal(ways[1], ways[2]) and not torch.equal(ways[0], ways[1])
    assert MASK not in ways[1]


def test_padding_of_prompts_is_not_judged(denoiser):
    prompts, real = torch.tensor([[PAD, PAD, 1, 2]]), torch.tensor([[0, 0, 1, 1]])
    seen = []

    def noted(candidates, x, log_p):
        seen.append(candidates[:, 0])
        return 0.0 * log_p

    callback = RerankCallback(denoiser, CallableEnergy(noted), attention_mask=real, num_candidates=2)
    written = run(denoiser, prompts=prompts, attention_mask=real, temperature=1.0, **callback_options(callback))
    assert MASK not in written
    for row in torch.cat([rows[:, :2] for rows in seen]):
        assert row.tolist() == [1, 2]  # padding is on the right now


def test_a_pass_on_left_padding_is_that_of_the_row_alone(denoiser):
    row, real = torch.tensor([[1, 2, MASK, 3, MASK]]), torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    alone, states = run_pass(denoiser, row, row[:, -3:] == MASK, None, keep_hidden=True)
    padded = torch.cat([torch.full((1, 2), PAD), row], 1)
    logits, hidden = run_pass(denoiser, padded, row[:, -3:] == MASK, real, keep_hidden=True)
    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(hidden, states, strict=True):
        torch.testing.assert_close(ours[:, 2:], theirs, atol=1e-4, rtol=1e-4)
    assert (logits[0, 1] == 0).all() and (
        logits[0, [0, 2]].argmax(-1) == denoiser.log_probs(row)[0, [2, 4]].argmax(-1)
    ).all()


@pytest.mark.parametrize("keep", [True, False])
def test_a_committed_end_of_text_stays_unless_asked_otherwise(denoiser, keep):
    text = torch.tensor([[1, 2, 3, 4, 5, EOS, MASK, 6]])
    tensors = {"block_x": text, "transfer_index": torch.tensor([[True, True, False, False]])}
    callback = RerankCallback(denoiser, loves_7, num_candidates=256, keep_eos=keep)
    written = callback(SimpleNamespace(eos_token_id=EOS), 0, 0, tensors)["block_x"][0].tolist()
    assert written[:4] == [1, 2, 3, 4] and written[6:] == [MASK, 6] and written[4] == 7
    assert written[5] == (EOS if keep else 7)


@pytest.mark.parametrize("way", ["scheduler", "callback"])
def test_ends_of_texts_stop_the_pipeline(denoiser, way):
    ends = CallableEnergy(lambda candidates, x, log_p: -30.0 * (candidates == EOS).sum(-1))
    scheduler, more = (reranking(ends, 64), {}) if way == "scheduler" else (None, {})
    if way == "callback":
        more = callback_options(RerankCallback(denoiser, ends, num_candidates=64))
    pipeline_options = {"temperature": 1.0, "eos_early_stop": True, "gen_length": 16, **more}
    written = run(denoiser, scheduler, prompts=PROMPTS[:1], **pipeline_options)[0].tolist()
    before_end = written[: written.index(EOS)]
    assert EOS in written and MASK not in before_end
    if way == "scheduler":
        assert written.count(MASK) > 0  # later blocks were not begun


def test_text_comes_out(denoiser):
    pipeline = diffusers.LLaDA2Pipeline(denoiser.network, reranking(loves_7, 4), tokenizer_of(SIZE, SPECIAL))
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline("the cat a dog", gen_length=4, block_length=4, num_inference_steps=2, temperature=1.0)
    assert len(output.texts) == 1 and output.texts[0]


def test_mistakes_are_errors_of_one_line(denoiser):
    with pytest.raises(ValueError, match=r"the pipeline's temperature must be > 0 .* got temperature=0.0"):
        run(denoiser, reranking(loves_7, 4))
    with pytest.raises(ValueError, match="reads hidden states: hidden must hold them"):
        run(denoiser, reranking(disturbed_head(denoiser), 4), temperature=1.0)
    with pytest.raises(ValueError, match="RerankScheduler has no option 'num_steps'"):
        reranking(loves_7, 4, num_steps=3)
    with pytest.raises(ValueError, match="on_impossible must be 'raise' or 'redraw'"):
        reranking(loves_7, 4, on_impossible="keep")
    with pytest.raises(ValueError, match=r"tensor_inputs must hold \['block_x', 'transfer_index'\], got \['block_x'\]"):
        run(denoiser, callback_on_step_end=RerankCallback(denoiser, loves_7, num_candidates=2))
    with pytest.raises(ValueError, match="mask_token_id must be given"):
        reranking(loves_7, 4).step(torch.zeros(1, 4, SIZE), 0, PROMPTS[:1])
