"""Finished texts of any generator: energies and weights by hand, the law of what is chosen, and the command."""

import itertools
import json
import math

import pytest
import torch

import edlm
from edlm import CallableEnergy
from edlm.cli import main
from edlm.energies.finished import ConditionalScorer
from tests.chance import assert_law
from tests.energies.test_text import causal_lm, pairs, pairs_by_hand

INF = math.inf
ROWS = [
    ("c", ["a", "bb", "acb", "a"]),  # "ca" is one token
    ("ab", ["", "c", "cab"]),
    ("a", ["c", "b"]),  # "ab" is one token, the first
    ("", ["abc", "b"]),
    ("bcbcb", ["a"]),
]


@torch.no_grad()
def log_p(model, ids):
    """Of all tokens but the first, one position at a time."""
    model.eval()
    rows = (model(torch.tensor([ids[:i]])).logits[0, -1].double().log_softmax(-1)[ids[i]] for i in range(1, len(ids)))
    return sum(map(float, rows))


def energy_by_hand(model, prompt, text, begin):
    return log_p(model, begin + pairs_by_hand(prompt)) - log_p(model, begin + pairs_by_hand(prompt + text))


def energies_by_hand(model, begins=([0], [], [0], [0], [])):
    """Without a BOS but where a first token has none before it: in the first, third and fourth row."""
    return [
        [energy_by_hand(model, prompt, text, begin) for text in texts]
        for (prompt, texts), begin in zip(ROWS, begins, strict=True)
    ]


def flat(rows):
    return [float(value) for row in rows for value in row]


def test_energy_is_minus_log_p_of_the_text_given_the_prompt():
    model = causal_lm()
    energies = ConditionalScorer(model, pairs())(*zip(*ROWS, strict=True))
    assert flat(energies) == pytest.approx(flat(energies_by_hand(model)), abs=1e-5)
    assert all(of_row.dtype == torch.float64 for of_row in energies)
    # Where no token spans the border and the prompt gives the first one, these are the text's own terms.
    assert energies[1][0] == 0 and energies[0][0] == energies[0][3]
    own = -log_p(model, [5, 4, 5]) + log_p(model, [5, 4])
    assert ConditionalScorer(model, pairs())(["abc"], [["ab"]])[0].item() == pytest.approx(own, abs=1e-5)


def test_a_bos_goes_where_the_tokenizer_or_the_energy_puts_it():
    model, tokenizer = causal_lm(), pairs()
    ones = energies_by_hand(model, [[1]] * 5)
    energies = ConditionalScorer(model, tokenizer, 1)(*zip(*ROWS, strict=True))
    assert flat(energies) == pytest.approx(flat(ones), abs=1e-5)
    tokenizer.backend_tokenizer.post_processor = bos_first()
    energies = ConditionalScorer(model, tokenizer)(*zip(*ROWS, strict=True))
    assert flat(energies) == pytest.approx(flat(energies_by_hand(model, [[0]] * 5)), abs=1e-5)
    spelled = ConditionalScorer(model, tokenizer)(["<bos>c"], [["bb"]])  # not twice
    assert spelled[0].item() == pytest.approx(float(energies[0][1]), abs=1e-5)
    with pytest.raises(ValueError, match="must have a bos or an eos"):
        ConditionalScorer(model, pairs(bos_token=None, eos_token=None))([""], [["a"]])


def bos_first():
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])


@pytest.fixture
def folder(tmp_path):
    causal_lm().save_pretrained(tmp_path / "lm")
    pairs().save_pretrained(tmp_path / "lm")
    return tmp_path


TABLE = {"xa": 0.7, "xb": -0.4, "xc": INF}
LETTERS = ["a", "b", "c"]


def by_table(texts):
    return [TABLE[text] for text in texts]


def test_weights_are_p_over_q_or_exp_of_minus_the_energy():
    log_q = [math.log(0.5), math.log(0.2), math.log(0.3)]
    output = edlm.rerank(["x", "x"], [LETTERS, LETTERS], by_table, [None, log_q], temperature=0.5)
    first, second = torch.tensor([-1.4, 0.8]).exp(), torch.tensor([-1.4, 0.8]).exp() / torch.tensor([0.5, 0.2])
    for weights, expected in zip(output.weights, (first, second), strict=True):
        expected = (expected / expected.sum()).tolist()
        assert weights.tolist() == pytest.approx([*expected, 0.0]) and weights.dtype == torch.float64
    assert output.ess == pytest.approx([1 / (w**2).sum().item() for w in output.weights])
    assert output.text == [LETTERS[i] for i in output.chosen]
    best = edlm.rerank(["x"], [LETTERS], by_table, [[-1.0, 9.0, -1.0]], mode="best")  # improbable for q
    assert best.chosen == [1] and best.weights[0][0] > 0.9


def test_weights_of_very_unlikely_texts_are_exact():
    output = edlm.rerank([""], [["a", "b"]], lambda texts: [5000.0, 5001.0], [[-700.0, -702.0]])
    assert output.weights[0].tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])


def test_a_row_is_chosen_by_its_own_seed():
    texts = [["a", "b"]] * 40
    whole = edlm.rerank(["x"] * 40, texts, by_table, seed=3)
    assert 0 < sum(whole.chosen) < 40
    assert [edlm.rerank(["x"], texts[:1], by_table, seed=3 + r).chosen[0] for r in range(40)] == whole.chosen


def test_texts_of_another_generator_follow_the_law_of_the_lm(folder):
    """200 texts a row from q, 1000 rows: the bias of self-normalised weights is below 1 %."""
    texts = ["".join(letters) for letters in itertools.product("abc", repeat=2)]
    q = torch.linspace(1.0, 3.0, 9).double()
    q = q / q.sum()
    drawn = q.expand(1000, 9).multinomial(200, replacement=True, generator=torch.Generator().manual_seed(0))
    model = causal_lm(initializer_range=0.1)
    model.save_pretrained(folder / "lm")
    law = torch.tensor([-energy_by_hand(model, "ab", text, []) for text in texts], dtype=torch.float64).softmax(0)
    assert (law - q).abs().sum() > 0.3 and law.max() < 0.7
    scorer = ConditionalScorer(model, pairs())
    table = dict(zip(["ab" + text for text in texts], scorer(["ab"], [texts])[0].tolist(), strict=True))
    rows, log_q = [[texts[i] for i in row] for row in drawn.tolist()], q.log()[drawn].tolist()
    output = edlm.rerank(["ab"] * 1000, rows, lambda whole: [table[text] for text in whole], log_q)
    counts = torch.tensor([output.text.count(text) for text in texts])
    assert_law(counts, law)
    with pytest.raises(AssertionError):
        assert_law(counts, q)
    few = edlm.rerank(["ab"] * 2, rows[:2], f"causal:{folder / 'lm'}", log_q[:2], device="cpu")
    assert few.chosen == output.chosen[:2]


def test_energies_of_text_do_and_those_of_steps_are_refused(folder):
    trained = edlm.AutoregressiveEnergy(causal_lm(), bos_token_id=1, tokenizer=pairs())
    trained.save_pretrained(folder / "energy")
    of_text = CallableEnergy.on_text(by_table)
    assert edlm.rerank(["x"], [LETTERS], of_text).energies[0].tolist() == pytest.approx([0.7, -0.4, INF])
    text = edlm.TextEnergy.from_causal_lm(folder / "lm")
    prompts, texts = zip(*ROWS, strict=True)
    expected = flat(energies_by_hand(causal_lm()))
    for energy in (text, f"causal:{folder / 'lm'}", f"text:{folder / 'lm'}"):
        assert flat(edlm.rerank(prompts, texts, energy, device="cpu").energies) == pytest.approx(expected, abs=1e-5)
    expected = flat(energies_by_hand(causal_lm(), [[1]] * 5))
    own = edlm.TextEnergy(causal_lm(), pairs(), bos_token_id=1)
    for energy in (trained, folder / "energy", own):
        assert flat(edlm.rerank(prompts, texts, energy, device="cpu").energies) == pytest.approx(expected, abs=1e-5)
    for short in (
        edlm.TextEnergy(causal_lm(), pairs(), max_positions=2),
        edlm.AutoregressiveEnergy(causal_lm(), bos_token_id=1, tokenizer=pairs(), max_positions=2),
    ):
        with pytest.raises(ValueError, match="since the LM's max_positions is 2"):
            edlm.rerank(["ababab"], [["cc"]], short, device="cpu")
    with pytest.raises(ValueError, match="got a CallableEnergy, which judges tokens of a denoising step"):
        edlm.rerank(["x"], [["a"]], CallableEnergy(lambda candidates, x, log_p: 0 * log_p))
    with pytest.raises(ValueError, match="got a ResidualHead, which judges tokens of a denoising step"):
        edlm.rerank(["x"], [["a"]], "tinystories", device="cpu")


MISTAKES = {
    "a row needs a text of finite energy, got 2 of infinite energy, in row 1 (prompt 'x')": {
        "texts": [["a"], ["c", "c"]]
    },
    "an energy must be finite or +inf, got nan, in row 0": {"energy": lambda texts: [math.nan] * len(texts)},
    "log_probs must be one finite number for each of 1 texts, got [-inf], in row 1": {"log_probs": [[0.0], [-INF]]},
    "for each of 1 texts, got [-1.0, -2.0], in row 0": {"log_probs": [[-1.0, -2.0], [0.0]]},
    "f must return energies, numbers of shape (2,), got (1,)": {"energy": lambda texts: [0.0]},
    "there must be a text for each prompt, got none in row 1": {"texts": [["a"], []]},
    "texts must be": {"texts": [["a"], "a"]},
    "prompts must be": {"prompts": "xx"},
    "temperature must be a number": {"temperature": "hot"},
    "got 2 prompts, 1 rows of texts and 1 of log_probs": {"texts": [["a"]]},
    "mode must be": {"mode": "worst"},
    "temperature must be > 0, got 0": {"temperature": 0},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named_with_their_row(message):
    given = {"prompts": ["x", "x"], "texts": [["a"], ["b"]], "energy": by_table} | MISTAKES[message]
    with pytest.raises(ValueError) as caught:
        edlm.rerank(**given)
    assert message in str(caught.value)


def command(folder, content, capsys, *words, name=None, code=0):
    (folder / "in.jsonl").write_text(content)
    file = ["--data", str(folder / "in.jsonl")] if name else [str(folder / "in.jsonl")]
    energy = ["--energy", f"causal:{folder / 'lm'}", "--output", str(folder / "out.jsonl"), "--device", "cpu"]
    assert main(["rerank", *file, *energy, *words]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize("name", [None, "--data"])
def test_command_adds_to_each_line(folder, capsys, name):
    rows = [{"prompt": prompt, "texts": texts, "id": i} for i, (prompt, texts) in enumerate(ROWS)]
    rows[1]["log_probs"] = [-1, -2.5, -0.5]
    content = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    table = command(folder, content, capsys, "--seed", "5", name=name)
    written = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    prompts, texts = zip(*ROWS, strict=True)
    log_probs = [row.get("log_probs") for row in rows]
    output = edlm.rerank(prompts, texts, f"causal:{folder / 'lm'}", log_probs, seed=5, device="cpu")
    for r, (row, line) in enumerate(zip(rows, written, strict=True)):
        assert {key: line[key] for key in row} == row
        assert line["energies"] == pytest.approx(output.energies[r].tolist(), abs=1e-6)
        assert line["weights"] == pytest.approx(output.weights[r].tolist(), abs=1e-6) and sum(line["weights"])
        assert line["chosen"] == output.chosen[r] and line["ess"] == pytest.approx(output.ess[r], abs=1e-6)
    assert "energy of a text" in table and " 5 " in table and " 12 " in table


def test_command_names_the_line_of_a_mistake(folder, capsys):
    good = '{"prompt": "a", "texts": ["c"]}\n'
    wrong = {
        '{"prompt": "a", "texts": ["c"': "in.jsonl:3: Expecting",
        "[1]": "in.jsonl:3: each line must be a JSON object, got '[1]'",
        '{"prompt": "a"}': "in.jsonl:3: a row must hold a prompt (text) and texts",
        '{"prompt": "a", "texts": []}': "in.jsonl:3: a row must hold",
        '{"prompt": 1, "texts": ["a"]}': "in.jsonl:3: a row must hold",
        '{"prompt": "a", "texts": ["c"], "log_probs": ["x"]}': "in.jsonl:3: log_probs must be a list of numbers",
    }
    for line, message in wrong.items():
        error = command(folder, good + "\n" + line, capsys, code=2)
        assert error.startswith("edlm: error: ") and error.count("\n") == 1 and message in error, error
    assert "got none" in command(folder, "\n", capsys, code=2)
    assert "No such file" in command(folder, good, capsys, "--data", "nowhere.jsonl", code=2, name="--data")
    nowhere = ["--output", str(folder / "in.jsonl" / "out.jsonl"), "--energy", "no such energy"]
    assert main(["rerank", str(folder / "in.jsonl"), *nowhere]) == 2 and "in.jsonl/out.jsonl" in capsys.readouterr().err
    assert main(["rerank", str(folder / "in.jsonl")]) == 2 and "energy must be given" in capsys.readouterr().err


def test_only_the_first_k_texts_are_considered():
    texts = [["ccc", "bb", "a"], ["a"]]
    output = edlm.rerank(["", ""], texts, lambda whole: [float(len(text)) for text in whole], mode="best", k=2)
    assert output.text == ["bb", "a"] and [len(of_row) for of_row in output.energies] == [2, 1]
