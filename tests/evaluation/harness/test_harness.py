"""lm-evaluation-harness on tiny local tasks: its numbers are those of direct calls of the sampler."""

import importlib.util
import json
import logging
import math
import subprocess
import sys

import pytest
import torch

import edlm
from edlm.sampler import EnergySampler

pytest.importorskip("lm_eval")
datasets = pytest.importorskip("datasets")

import lm_eval  # noqa: E402
import yaml  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from edlm.energies.proposal import Proposal  # noqa: E402
from edlm.evaluation.harness import HarnessModel, model  # noqa: E402
from edlm.evaluation.harness.requests import (  # noqa: E402
    build_sampler,
    generation_request,
    likeliest_sampler,
    seeds_of,
    usable_device,
)
from edlm.evaluation.likelihood.text import TextBounds, row_to_score  # noqa: E402

CONTEXT = "Once upon a time, there was a little girl named"
STORY = "Once upon a time, there was a dog. He liked to play with a ball."
CHOICES = [{"context": CONTEXT, "choices": [" Lily.", " table the of"], "label": 0}]
CHOICES += [{"context": "Tom was very", "choices": [" and", " happy."], "label": 1}]
TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "tiny_story": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 24, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "tiny_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="module")
def denoiser():
    return edlm.load_denoiser("tinystories")


@pytest.fixture(scope="module")
def head():
    return edlm.load_energy("tinystories")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    rows = {"tiny_choice": CHOICES, "tiny_story": [{"text": CONTEXT}, {"text": "The dog"}]}
    rows["tiny_text"] = [{"text": STORY}, {"text": STORY * 9}]
    for name, task in TASKS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        source = {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder / "cache")}
        local = {"task": name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(local | task))
    return folder


def evaluate(tasks, model, **options):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **options)


def answers(results, name):
    """What the model said to each request, in the order of the documents."""
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return [response for sample in samples for [response] in sample["resps"]]


def request(*args, kind="loglikelihood"):
    return Instance(kind, {}, args, 0)


def requests(*all_args, kind="loglikelihood"):
    return [request(*args, kind=kind) for args in all_args]


def by_hand(sampler, context, text):
    """The bound of one text alone after its context, exact: no seed matters."""
    denoiser = sampler.denoiser
    known = denoiser.tokenizer(context, add_special_tokens=False)["input_ids"]
    whole = denoiser.tokenizer(context + text, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[*denoiser.prefix_ids, *whole]])
    given = torch.arange(tokens.shape[1]) < len(denoiser.prefix_ids) + len(known)
    return sampler.likelihood_bound(tokens, given=given[None], seeds=[0]).item()


def test_three_kinds_of_tasks_by_name(tasks, denoiser, head):
    args = "denoiser=tinystories,energy=tinystories,num_steps=4,max_gen_toks=16"
    results = evaluate(tasks, "edlm", model_args=args, batch_size=3)
    sampler = EnergySampler(denoiser, head, num_steps=4)
    expected = [-by_hand(sampler, doc["context"], choice) for doc in CHOICES for choice in doc["choices"]]
    told = answers(results, "tiny_choice")
    assert [nats for nats, _ in told] == pytest.approx(expected, abs=1e-4)
    right = [max(range(2), key=expected[2 * i :][:2].__getitem__) == doc["label"] for i, doc in enumerate(CHOICES)]
    assert results["results"]["tiny_choice"]["acc,none"] == sum(right) / 2
    assert right[0]  # "Lily." against nonsense

    short, long = answers(results, "tiny_text")
    assert short == pytest.approx(-by_hand(sampler, "", STORY), abs=1e-4)
    perplexity = math.exp(-(short + long) / sum(len(text.split()) for text in (STORY, STORY * 9)))
    assert results["results"]["tiny_text"]["word_perplexity,none"] == pytest.approx(perplexity, rel=1e-6)

    lm = HarnessModel(denoiser, head, num_steps=4)
    first = answers(results, "tiny_story")
    again = lm.generate_until(requests((CONTEXT, {"until": ["."], "max_gen_toks": 24, "do_sample": False})))
    assert first[0] == again[0] and "." not in first[0] and first[0] != first[1]
    assert results["config"]["loglikelihood"] == "exact" and results["config"]["sampler"]["num_steps"] == 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"energy": "tinystories", "num_candidates": 4, "order": "random", "num_orders": 2},
        {"energy": "tinystories/autoregressive", "num_candidates": 2, "scope": "sequence", "inner_draws": 3},
        {"energy": "tinystories", "block_length": 8},
    ],
    ids=["base", "candidates", "autoregressive", "blocks"],
)
def test_answers_do_not_depend_on_the_batch(options):
    small = {"num_steps": 2, **options}
    texts = [("Once upon", " a time"), ("The dog", " saw a big red ball"), ("", "One day"), ("The dog", " ran")]
    prompts = [(text, {"until": ["."], "max_gen_toks": 12}) for text in ("Once upon", "The dog", "", "Tom was a")]
    told = []
    for size in (1, 3):
        lm = HarnessModel("tinystories", batch_size=size, **small)
        order = slice(None, None, 1 if size == 1 else -1)
        scores = lm.loglikelihood(requests(*texts[order]), disable_tqdm=True)
        written = lm.generate_until(requests(*prompts[order], kind="generate_until"), disable_tqdm=True)
        rolling = lm.loglikelihood_rolling(requests((STORY,), ("Tom",)), disable_tqdm=True)
        told.append((scores[order], written[order], rolling))
    (scores, written, rolling), (others, rewritten, rerolled) = told
    assert [nats for nats, _ in scores] == pytest.approx([nats for nats, _ in others], abs=1e-4)
    assert [is_greedy for _, is_greedy in scores] == [is_greedy for _, is_greedy in others]
    assert written == rewritten and len(set(written)) == len(written)
    assert rolling == pytest.approx(rerolled, abs=1e-3)


def test_more_orders_make_it_less_random(denoiser):
    def spread(num_orders):
        options = {"num_steps": 2, "order": "random", "num_orders": num_orders, "check_greedy": False}
        told = [HarnessModel(denoiser, seed=seed, **options).loglikelihood(asked)[0][0] for seed in range(12)]
        return torch.tensor(told).std().item()

    asked = requests(("Once upon a time", ", there was a little girl who liked to play"))
    assert spread(8) < 0.7 * spread(1)


def test_is_greedy_is_what_the_likeliest_tokens_are(denoiser, head):
    lm = HarnessModel(denoiser, head, num_steps=2, greedy="likeliest")
    [written] = lm.generate_until(requests((CONTEXT, {"until": [], "max_gen_toks": 5}), kind="generate_until"))
    told = lm.loglikelihood(requests((CONTEXT, written), (CONTEXT, " table the of")))
    assert [is_greedy for _, is_greedy in told] == [True, False]
    assert not HarnessModel(denoiser, num_steps=2, check_greedy=False).loglikelihood(requests((CONTEXT, written)))[0][1]


def test_equal_requests_are_written_differently_and_repeatably(denoiser):
    lm = HarnessModel(denoiser, num_steps=2)
    asked = requests(*[("Once upon", {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0})] * 3)
    written = lm.generate_until(asked)
    assert len(set(written)) == 3 and written == lm.generate_until(asked)
    assert written != HarnessModel(denoiser, num_steps=2, seed=1).generate_until(asked)


def test_only_greedy_tasks_get_the_likeliest_tokens(denoiser):
    lm = HarnessModel(denoiser, num_steps=2, greedy="likeliest")
    drawn = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    assert len(set(lm.generate_until(requests(*[("Once upon", drawn)] * 3)))) == 3
    assert len(set(lm.generate_until(requests(*[("Once upon", drawn | {"do_sample": False})] * 3)))) == 1


def test_a_tasks_own_proposal_is_what_is_drawn_from(denoiser):
    lm = HarnessModel(denoiser, num_steps=2)
    asked = {"until": [], "max_gen_toks": 8, "do_sample": True}
    for proposal, different in (({}, 3), ({"top_k": 1}, 1), ({"top_k": 0}, 3)):
        assert len(set(lm.generate_until(requests(*[("Once upon", asked | proposal)] * 3)))) == different


def test_a_prompt_has_one_prefix():
    class Prefixed:
        max_length, prefix_ids, suffix_ids, is_framed = 20, (8, 9), (), False

    for context in ([1, 2], [8, 9, 1, 2]):
        assert generation_request(Prefixed, context, {}, 3, None).prompt == [8, 9, 1, 2]
    assert generation_request(Prefixed, [8, 1], {}, 3, None).prompt == [8, 9, 8, 1]


def test_the_likeliest_tokens_are_taken_one_step_at_a_time(denoiser, head):
    """Without exact decisions candidates would all be alike: the denoiser's own likeliest are what is left."""
    how = {"num_steps": 2, "temperature": 0.7, "weight_temperature": 2.0}
    found = likeliest_sampler(EnergySampler(denoiser, head, num_candidates=3, scope="sequence", **how))
    assert (found.energy, found.num_candidates, found.scope, found.group_size) == (None, 1, "step", None)
    assert found.proposal == Proposal(top_k=1) and found.num_steps == 2
    found = likeliest_sampler(EnergySampler(denoiser, head, num_steps=2))
    assert found.tokenwise and found.energy is head and found.proposal == Proposal(top_k=1)


def test_a_likelihood_is_the_bound_of_its_own_seed(denoiser):
    """That of the context, which choices share; without one, that of the text itself."""
    lm = HarnessModel(denoiser, num_steps=2, order="random", check_greedy=False, seed=3)
    rest = (" a time, there was a little girl named Lily", " the hill there was a big red ball")
    pairs = [("Once upon", rest[0]), ("Once upon", rest[1]), ("", "The dog ran to the tree"), ("", "Tom was a boy")]
    told = [nats for nats, _ in lm.loglikelihood(requests(*pairs))]
    for pair, nats in zip(pairs, told, strict=True):
        seeds = seeds_of(3, [pair[0] or pair[1]], [pair])
        known, rest = (lm.tok_encode(part) for part in (pair[0], pair[0] + pair[1]))
        row = row_to_score(denoiser, known, rest[len(known) :])
        assert nats == pytest.approx(-TextBounds(lm.sampler).bounds([row], seeds).item(), abs=1e-4)
    other = [nats for nats, _ in HarnessModel(denoiser, num_steps=2, order="random").loglikelihood(requests(*pairs))]
    assert all(abs(one - another) > 1e-3 for one, another in zip(told, other, strict=True))  # the seed is seen


def test_choices_of_a_context_share_its_seed():
    first, second, other = seeds_of(0, ["a", "a", "b"], [("a", "x"), ("a", "y"), ("b", "x")])
    assert first == second != other
    assert seeds_of(1, ["a"], [("a", "x")]) != [first]


def test_a_task_is_warned_of_what_is_done_in_another_way(denoiser, caplog):
    lm = HarnessModel(denoiser, num_steps=1)
    with caplog.at_level(logging.WARNING):
        lm.generate_until(requests(*[("The dog " * 200, {"max_gen_toks": 900, "num_beams": 4})] * 2))
    for part in ("must fit max_length = 128", "beginning of contexts", "ignored ['num_beams']", "greedy decoding"):
        assert sum(part in record.getMessage() for record in caplog.records) == 1, part


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize(
    ("context", "asked", "in_blocks", "kept", "new"),
    [
        (5, 3, False, 5, 3),
        (5, 9, False, 5, 5),
        (20, 5, False, 5, 5),
        (20, 30, False, 5, 5),
        (2, 30, False, 2, 8),
        (20, 30, True, 20, 30),
    ],
)
def test_prompts_fit(framed, context, asked, in_blocks, kept, new):
    class Framed:
        max_length, prefix_ids, suffix_ids, is_framed = 12 if framed else 11, (8,), (9,), framed

    ids = list(range(100, 100 + context))
    request = generation_request(Framed, ids, {"max_new_tokens": asked}, 256, in_blocks)
    prefix, cut = ([] if framed else [8]), kept < context
    expected = ids[context - kept - (cut and not framed) :] if cut else prefix + ids
    assert request.prompt == expected and request.how.max_new_tokens == new
    assert len(request.warnings) == (new < asked) + cut


@pytest.mark.parametrize(
    ("options", "is_greedy", "proposal"),
    [
        ({}, True, {}),
        ({"do_sample": False, "temperature": 0.7}, True, {}),
        ({"do_sample": True, "temperature": 0.0}, True, {}),
        ({"temperature": 0.7}, False, {"temperature": 0.7}),
        ({"do_sample": True}, False, {}),
        ({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}, False, {"temperature": 0.5, "top_p": 0.9}),
    ],
)
def test_generation_options(denoiser, options, is_greedy, proposal):
    how = generation_request(denoiser, [5], {"until": "a", **options}, 7, None).how
    assert (how.is_greedy, dict(how.proposal), how.until, how.max_new_tokens) == (is_greedy, proposal, ("a",), 7)


def test_options_are_checked(denoiser, head):
    with pytest.raises(ValueError, match="no option 'num_step'; did you mean 'num_steps'"):
        HarnessModel(denoiser, num_step=3)
    with pytest.raises(ValueError, match="num_candidates must be given: CallableEnergy"):
        HarnessModel(denoiser, edlm.CallableEnergy(lambda candidates, x, log_p: 0 * log_p))
    with pytest.raises(ValueError, match="greedy must be 'sampler' or 'likeliest', got 'beam'"):
        HarnessModel(denoiser, greedy="beam")
    assert build_sampler(denoiser, head, {}).tokenwise and build_sampler(denoiser, None, {}).num_candidates == 1
    assert HarnessModel(denoiser, batch_size="auto").batch_size == 16


def test_without_lm_eval_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.instance", None)
    spec = importlib.util.spec_from_file_location("model_alone", model.__file__)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "edlm-rerank\[harness\] @ git\+'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_gpu_that_is_not_there_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device("cuda:0") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert usable_device("cuda:0") == torch.device("cuda:0")


@pytest.mark.slow
def test_the_command_line(tasks):
    args = ["--model", "edlm", "--model_args", "denoiser=tinystories,num_steps=2", "--tasks", "tiny_choice"]
    command = [sys.executable, "-m", "edlm.evaluation.harness", "run", *args, "--include_path", str(tasks)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert "tiny_choice" in run.stdout and "acc" in run.stdout
