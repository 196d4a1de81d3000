"""Probabilities of options for a gap, against sums over everything; and `edlm choose`."""

import itertools
import json
import math

import pytest
import torch

from edlm import EnergySampler, FunctionDenoiser
from edlm.cli import main
from edlm.evaluation.likelihood.text import TextBounds
from edlm.sampler.text.prompts import Reader, Row
from tests.denoisers.test_framing import denoiser_of, roberta, roberta_tokenizer
from tests.sampler.brute_force import MASK, SEQUENCES, BruteForce, Options, World
from tests.sampler.text.test_infill import sentencepiece_denoiser

ALL = [list(option) for n in (1, 2, 3) for option in itertools.product(range(3), repeat=n)]


def logits_of(x_t):
    """Of any length; each position's depend on all tokens and on its place."""
    place = torch.arange(1.0, x_t.shape[1] + 1)
    whole = (x_t * place.sqrt()).sum(1)[:, None, None]
    return 2 * torch.sin(whole + 1.7 * place[:, None] * torch.tensor([1.0, 2.3, 4.1]))


def watched(seen):
    def f(x_t, t):
        seen.append(x_t.tolist())
        return logits_of(x_t)

    return FunctionDenoiser(f, MASK, 3)


def log_p_left_to_right(before, option, after):
    """One token a pass."""
    x_t, total = torch.tensor([[*before, *[MASK] * len(option), *after]]), 0.0
    for i, token in enumerate(option, start=len(before)):
        total += logits_of(x_t)[0, i].double().log_softmax(-1)[token].item()
        x_t[0, i] = token
    return total


def test_every_filling_of_each_length_is_as_summed_by_hand():
    sampler = EnergySampler(watched([]), num_steps=4, order="left_to_right")
    output = sampler.choose([[0, MASK, 2, 1], [MASK, 1]], ALL)
    assert output.exact and output.num_draws == 1 and output.text == ["", ""]
    for (before, after), nats, probs, chosen in zip(
        [([0], [2, 1]), ([], [1])], output.nats, output.probs, output.chosen, strict=True
    ):
        expected = torch.tensor([-log_p_left_to_right(before, option, after) for option in ALL])
        torch.testing.assert_close(nats.float(), expected, atol=1e-6, rtol=0)
        for n in (1, 2, 3):
            of_length = torch.tensor([len(option) == n for option in ALL])
            assert (-nats[of_length]).exp().sum().item() == pytest.approx(1, abs=1e-6)
        assert probs.sum().item() == pytest.approx(1) and chosen == nats.argmin()
        torch.testing.assert_close(probs, (-nats).exp() / 3, atol=1e-6, rtol=0)  # one for each of three lengths
    counts = torch.tensor([len(option) for option in ALL])
    assert torch.equal(output.nats_per_token[1], output.nats[1] / counts)


@pytest.mark.parametrize("order", ["dilated", "confidence"])
@pytest.mark.parametrize("exact", [True, False])
def test_exact_options_follow_the_law_of_the_sampler(order, exact):
    world = World(3)
    given = Options(
        num_steps=2, num_candidates=None if exact else 1, order="dilated" if order == "bisecting" else order
    )
    law = BruteForce(world, given, start=(2, MASK, MASK)).law()
    sampler = EnergySampler(world.denoiser(), world.head(), **given.sampler_options())
    options = [list(x[1:]) for x in SEQUENCES if x[0] == 2]
    output = sampler.choose([[2, MASK]], options)
    expected = torch.tensor([p for x, p in zip(SEQUENCES, law.tolist(), strict=True) if x[0] == 2])
    assert output.exact
    torch.testing.assert_close(output.probs[0].float(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "options", [{"num_candidates": 3}, {"order": "random"}, {"scope": "sequence", "num_candidates": 2}]
)
def test_draws_of_bounds_average_to_the_law(options):
    world = World(4)
    given = Options(num_steps=2, **{"order": "left_to_right", **options})
    law = BruteForce(world, given, start=(2, MASK, MASK)).law()
    sampler = EnergySampler(world.denoiser(), world.energy(), **given.sampler_options())
    output = sampler.choose([[2, MASK]], [list(x[1:]) for x in SEQUENCES if x[0] == 2], num_draws=600, batch_size=2000)
    expected = torch.tensor([p for x, p in zip(SEQUENCES, law.tolist(), strict=True) if x[0] == 2])
    assert not output.exact and output.num_draws == 600 and "bounds, 600 draws" in repr(output)
    torch.testing.assert_close((-output.nats[0]).exp().float(), expected, atol=0.03, rtol=0.1)
    few = sampler.choose([[2, MASK]], [[0, 1], [1, 2]], num_draws=9)
    assert not torch.allclose(
        few.nats[0], sampler.choose([[2, MASK]], [[0, 1], [1, 2]], num_draws=9, seed=1000).nats[0]
    )
    again = sampler.choose([[2, MASK]], [[1, 2]], num_draws=9)  # an option does not depend on the others
    assert again.nats[0].item() == pytest.approx(few.nats[0][1].item(), abs=1e-9)


def test_options_of_a_length_share_the_first_pass():
    seen = []
    sampler = EnergySampler(watched(seen), num_steps=1)
    sampler.choose([[0, MASK, 2], [MASK, 1, 1]], [[0], [1], [2], [0, 1], [2, 1]])
    assert len(seen) == 1 and len(seen[0]) == 4  # two texts, two lengths
    seen.clear()
    EnergySampler(watched(seen), num_steps=2, order="left_to_right").choose([[0, MASK]], ALL[3:12])
    assert [len(rows) for rows in seen] == [1, 3]  # then each first token


def test_options_of_text_are_read_as_running_text(stories):
    reader = Reader(stories.denoiser)
    texts = ["The <mask> barked.", "Once<mask>there was a dog.", "<mask> was sad."]
    options = [["dog", "big cat"], [" upon a time, ", ", "], ["Tom", "The dog"]]
    output = stories.choose(texts, options)
    assert output.text[0] == "The dog barked." and output.chosen[0] == 0
    first = reader.read("The"), reader.read(" big cat"), reader.read(" barked.", inside=True)
    prefix = list(stories.denoiser.prefix_ids) if stories.denoiser.is_framed else []
    tokens = [*prefix, *itertools.chain(*first)]
    start = len(prefix) + len(first[0])
    row = Row(torch.tensor(tokens), ((start, start + len(first[1])),), len(prefix), 0)
    assert output.nats[0][1].item() == pytest.approx(TextBounds(stories).bounds([row], [0]).item(), abs=1e-4)
    alone = [stories.choose(text, of_text) for text, of_text in zip(texts, options, strict=True)]
    for r, single in enumerate(alone):
        torch.testing.assert_close(single.nats[0], output.nats[r], atol=1e-4, rtol=0)
    assert repr(alone[0]).splitlines()[2].split()[:2] == ["'dog'", f"{alone[0].probs[0][0].item():.1%}"]


def test_a_space_before_the_gap_belongs_to_the_option():
    sampler = EnergySampler(sentencepiece_denoiser(), num_steps=1)
    reader = Reader(sampler.denoiser)
    for text, option, tokens in (("a <mask> b", "b", " b"), ("a<mask> b", "b", "b")):
        count = int(sampler.choose(text, [option]).num_tokens[0])
        assert count == len(reader.read(tokens, inside=True))


def test_in_blocks_of_any_length_the_whole_is_the_product_of_the_blocks(stories):
    from dataclasses import replace

    blocks = replace(stories, block_length=2, num_steps=1)
    output = blocks.choose("One day, <mask> were sad.", ["a boy and a girl", "the dogs"])
    text = "One day, a boy and a girl were sad."
    assert output.exact and output.options == [["a boy and a girl", "the dogs"]]
    reader = Reader(stories.denoiser)
    parts = reader.read("One day,"), reader.read(" a boy and a girl"), reader.read(" were sad.")
    prefix = list(stories.denoiser.prefix_ids) if stories.denoiser.is_framed else []
    tokens = [*prefix, *itertools.chain(*parts)]
    start = len(prefix) + len(parts[0])
    row = Row(torch.tensor(tokens), ((start, start + len(parts[1])),), len(prefix), 0)
    assert output.nats[0][0].item() == pytest.approx(TextBounds(blocks).bounds([row], [0]).item(), abs=1e-4)
    assert text == blocks.choose("One day, <mask> were sad.", ["a boy and a girl"]).text[0]


@pytest.mark.parametrize(
    ("texts", "options", "how", "message"),
    [
        ("a dog", ["a"], {}, "one gap, spelled <mask> alone, got 'a dog'"),
        ("a <mask> and <mask>", ["a"], {}, "one gap"),
        ("a <mask:2>", ["a"], {}, "one gap"),
        ("a <mask>", [], {}, "at least one for each"),
        ("a <mask>", [""], {}, "at least one token"),
        ("a <mask>", ["dog", "dog"], {}, "different in their tokens"),
        ("a <mask>", "dog", {}, "options must be a list"),
        (["a <mask>", "b <mask>"], [["dog"]], {}, "2 texts and 1 of options"),
        ("a <mask>", ["\ud800"], {}, "valid Unicode"),
        ([[3, 4]], [[5]], {}, "one gap, of masks"),
        ("a <mask>", ["dog"], {"num_draws": 0}, "num_draws must be >= 1, got 0"),
        ("a <mask>", ["dog"], {"seeds": 1}, "no option 'seeds'; did you mean 'seed'"),
        ("a <mask>", [[999999]], {}, "tokens must lie in"),
    ],
)
def test_mistakes(stories, texts, options, how, message):
    with pytest.raises(ValueError, match=message):
        stories.choose(texts, options, **how)


def test_options_that_cannot_be_written_have_no_probability():
    def f(x_t, t):
        logits = torch.zeros(*x_t.shape, 3)
        logits[..., 2] = -math.inf
        return logits

    sampler = EnergySampler(FunctionDenoiser(f, MASK, 3), num_steps=1)
    output = sampler.choose([[0, MASK]], [[0], [2]])
    assert output.probs[0].tolist() == [1, 0] and output.nats[0][1] == math.inf
    with pytest.raises(ValueError, match="an option that can be written"):
        sampler.choose([[0, MASK]], [[2], [1, 2]])


@pytest.fixture
def folder(tmp_path):
    denoiser_of(roberta).network.save_pretrained(tmp_path / "denoiser")
    roberta_tokenizer().save_pretrained(tmp_path / "denoiser")
    return tmp_path


def chosen(folder, capsys, *words, code=0):
    assert main(["choose", *words, "--denoiser", str(folder / "denoiser"), "--device", "cpu"]) == code
    printed = capsys.readouterr()
    return [json.loads(line) for line in printed.out.splitlines()], printed.err


def test_command_takes_a_text_and_its_options(folder, capsys):
    (line,), table = chosen(folder, capsys, "a <mask> b", "--options", "a", "c d", "b")
    assert line["text"] == "a <mask> b" and line["options"] == ["a", "c d", "b"]
    assert line["exact"] and line["num_draws"] == 1
    weights = [math.exp(-nats) for nats in line["nats"]]
    assert line["probs"] == pytest.approx([weight / sum(weights) for weight in weights])
    assert line["nats_per_token"] == [line["nats"][0], line["nats"][1] / 2, line["nats"][2]]
    assert line["chosen"] == line["probs"].index(max(line["probs"]))
    assert "a <mask> b (exact)" in table and f"{line['probs'][1]:.4f}" in table


def test_command_reads_and_writes_lines(folder, capsys):
    (folder / "gaps.jsonl").write_text('{"text": "<mask> b", "options": ["c", "d"], "id": 7}\n{"text": "a <mask>"}\n')
    words = ["--data", str(folder / "gaps.jsonl"), "--options", "a", "b", "c", "--output", str(folder / "out.jsonl")]
    nothing, table = chosen(folder, capsys, *words)
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert nothing == [] and [len(line["probs"]) for line in lines] == [2, 3] and lines[0]["id"] == 7
    (alone,), _ = chosen(folder, capsys, "--text", "a <mask>", "--options", "a", "b", "c")
    assert lines[1]["nats"] == pytest.approx(alone["nats"], abs=1e-4) and lines[1]["options"] == ["a", "b", "c"]
    assert "2, 3" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a <mask>"], "options must be given for a text"),
        (["--options", "a", "b"], "text or data must be given"),
        (["a b", "--options", "a", "b"], "one gap"),
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["a <mask>", "--options", "a", "b", "--num_draws", "0"], "num_draws must be >= 1"),
    ],
)
def test_command_mistakes(folder, capsys, words, message):
    assert message in chosen(folder, capsys, *words, code=2)[1]
