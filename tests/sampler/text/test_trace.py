"""The trace: its steps lead to the text, its numbers are those of the energies and laws, its page is safe."""

import re
from xml.etree import ElementTree

import pytest
import torch

from edlm import CallableEnergy, EnergySampler
from edlm.cli import main
from edlm.sampler.text.picture import picture_of
from tests.denoisers.test_framing import denoiser_of, roberta, roberta_tokenizer
from tests.energies.heads import disturbed_head, modernbert
from tests.energies.test_text import spelling_denoiser
from tests.evaluation.report.test_browser import CHROMIUM, DRIVER, opened

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</script><script>alert(1)</script>"
SPELLED = ["a", EVIL, "c", "[MASK]"]


def reranked(energy=lambda x: 0.9 * (x == 1).sum(-1) - 0.4 * (x == 2).sum(-1), **options):
    """Three tokens, decided at sequence scope."""
    options = {"num_steps": 2, "num_candidates": 6, "scope": "sequence", "order": "left_to_right", **options}
    return EnergySampler(spelling_denoiser(SPELLED), CallableEnergy(lambda c, x, p: energy(c)), **options)


def text_of(step):
    return "".join(piece["text"] for piece in step["pieces"])


def ids_of(step):
    return [int(word) for piece in step["pieces"] for word in piece["text"].split()]


@pytest.mark.parametrize(
    "options", [{"num_candidates": None}, {"num_candidates": 4, "group_size": 2}, {"energy": None}]
)
def test_its_steps_lead_from_the_prompt_to_the_text(options):
    denoiser = modernbert()
    sampler = EnergySampler(denoiser, **{"energy": disturbed_head(denoiser), "num_steps": 2, **options})
    prompts = [[0, 1, 2], [3], [2, 2, 1, 0, 0, 1, 3]]
    output = sampler.generate(prompts, 25, seed=[1, 2, 3], block_length=4)  # 16 positions: views slide
    rows = output.trace().rows
    for prompt, row, tokens, seed in zip(prompts, rows, output.tokens, (1, 2, 3), strict=True):
        assert row["seed"] == seed and ids_of(row["steps"][-1]) == tokens.tolist()
        positions = [step["positions"] for step in row["steps"]]
        assert positions[0][0] == len(prompt) and all(len(written) == 2 for written in positions[:-1])
        assert sum(positions, []) != sorted(sum(positions, []))
        assert sorted(sum(positions, [])) == list(range(len(prompt), len(tokens)))
        for step in row["steps"]:
            assert sum(len(piece["text"].split()) for piece in step["pieces"] if piece["kind"] == "new") == len(
                step["positions"]
            )
    assert len(output.trace(max_rows=2).rows) == 2


def test_candidates_have_their_energies_weights_and_the_one_chosen():
    sampler = reranked(weight_temperature=0.5)
    output = sampler.generate(None, 3, num_return_sequences=3, seed=0)
    assert output.trace(max_rows=1).rows[0] == output.trace().rows[0]
    for r, row in enumerate(output.trace(max_candidates=6).rows):
        for step, info in zip(row["steps"], output.steps, strict=True):
            [decision] = step["decisions"]
            candidates, weights = decision["candidates"], [c["weight"] for c in decision["candidates"]]
            assert decision["k"] == 6 and decision["ess"] == info.ess[r].item() and len(candidates) == 6
            for candidate in candidates:
                whole = candidate["text"] + text_of(row["steps"][0])[: 0 if step["step"] == 0 else -1]
                evil, others = whole.count(EVIL), whole.replace(EVIL, "").count("c")
                assert candidate["energy"] == pytest.approx(0.9 * evil - 0.4 * others, abs=1e-6)
            expected = torch.tensor([-c["energy"] / 0.5 for c in candidates]).softmax(0)
            assert weights == pytest.approx(expected.tolist(), abs=1e-6) and weights == sorted(weights, reverse=True)
            [chosen] = [c["text"] for c in candidates if c["chosen"]]
            assert len(step["positions"]) in (1, 2) and output.text[r].startswith(text_of(step).rstrip("·"))
            assert chosen.startswith("".join(p["text"] for p in step["pieces"] if p["kind"] == "new"))
        assert text_of(row["steps"][-1]) == output.text[r]
        few = output.trace(max_candidates=1).rows[r]["steps"][0]["decisions"][0]["candidates"]
        assert len(few) in (1, 2) and few[-1]["chosen"] and few[0]["weight"] >= few[-1]["weight"]


@pytest.mark.parametrize("group_size", [None, 2])
def test_likeliest_tokens_of_exact_decisions_are_their_law(group_size):
    denoiser = modernbert()
    head = disturbed_head(denoiser)
    sampler = EnergySampler(denoiser, head, num_steps=2, num_candidates=None, group_size=group_size)
    output = sampler.generate([[0, 1], [3]], 9, seed=5, num_likeliest=99)
    nats = []
    for row in output.trace().rows:
        nats.append(0.0)
        for token in (token for step in row["steps"] for token in step["decisions"][0]["tokens"]):
            shares = dict(token["likeliest"])
            assert sum(shares.values()) == pytest.approx(1) and len(shares) == denoiser.vocab_size
            nats[-1] -= torch.tensor(shares[token["text"]]).log().item()
    for tokens, given, value in zip(output.tokens, (2, 1), nats, strict=True):
        bound = sampler.likelihood_bound(tokens[None], given=(torch.arange(len(tokens)) < given)[None], seeds=[0])
        assert value == pytest.approx(bound.item(), abs=1e-4)
    plain = sampler.generate([[0, 1], [3]], 9, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(plain.tokens, output.tokens, strict=True))
    assert "likeliest" not in plain.trace().html() and "likeliest" in output.trace().html()


def test_a_row_whose_candidates_are_all_impossible_is_kept():
    impossible = reranked(lambda x: torch.full(x.shape[:2], torch.inf), on_impossible="keep")
    trace = impossible.generate(None, 3, seed=0).trace()
    decision = trace.rows[0]["steps"][0]["decisions"][0]
    assert decision["kept"] and not any(c["chosen"] for c in decision["candidates"])
    assert trace.rows[0]["steps"][0]["positions"] == [] and "all impossible: kept masked" in trace.html()


def test_outside_of_its_window_the_energy_has_no_candidates():
    steps = reranked(window=(0.0, 0.5)).generate(None, 3, seed=0).trace().rows[0]["steps"]
    assert ["candidates" in step["decisions"][0] for step in steps] == [False, True]


def page(tmp_path):
    output = reranked(lambda x: -1.0 * (x == 1).sum(-1)).generate(None, 3, num_return_sequences=4, seed=0)
    assert any(EVIL in text for text in output.text)
    output.trace().save(tmp_path / "trace.html")
    return output, (tmp_path / "trace.html").read_text()


def test_page_holds_every_number_and_runs_nothing(tmp_path):
    output, html = page(tmp_path)
    assert "<script" not in html and "http" not in html and "@import" not in html and "url(" not in html
    assert "&lt;/script&gt;&lt;script&gt;" in html and len(html) < 30_000
    for row in output.trace().rows:
        for decision in (decision for step in row["steps"] for decision in step["decisions"]):
            assert f"6 candidates, effective sample size {decision['ess']:.2f}" in html
            for candidate in decision["candidates"]:
                assert f"<td>{candidate['weight']:.3f}</td><td>{candidate['energy']:.3f}</td>" in html
    assert html.count("class=chosen") == sum(len(row["steps"]) for row in output.trace().rows)
    assert re.findall(r"Text \d, seed (\d)", html) == ["0", "1", "2", "3"]


def test_command_writes_the_page_of_its_first_samples(tmp_path, capsys):
    denoiser_of(roberta).network.save_pretrained(tmp_path)
    roberta_tokenizer().save_pretrained(tmp_path)
    names = ["--denoiser", str(tmp_path), "--energy", "null", "--device", "cpu", "--trace", str(tmp_path / "t.html")]
    options = ["--num_samples", "3", "--batch_size", "2", "--length", "6", "--sampler.num_steps", "2", "--seed", "7"]
    assert main(["sample", *names, *options]) == 0
    html = (tmp_path / "t.html").read_text()
    assert re.findall(r"Text \d, seed (\d)", html) == ["7", "8"] and "likeliest" in html
    with_trace = capsys.readouterr().out
    assert main(["sample", *names[:-2], *options]) == 0 and capsys.readouterr().out == with_trace


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser here (Debian: chromium, chromium-driver)")
@pytest.mark.parametrize("width", [1280, 390])
def test_page_in_a_browser(width, tmp_path):
    output, _ = page(tmp_path)
    with opened(tmp_path / "trace.html", width, tmp_path) as browser:
        shown = browser.execute_script("return [...document.querySelectorAll('p.text')].map(e => e.textContent)")
        assert [text for text in shown if "·" not in text] == output.text
        browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
        chosen = browser.execute_script(
            "return [...document.querySelectorAll('tr.chosen td')].map(e => e.offsetHeight)"
        )
        assert len(chosen) == 3 * sum(len(row["steps"]) for row in output.trace().rows) and min(chosen) > 5


def test_picture_holds_the_text_after_each_step_and_no_markup_of_it(tmp_path):
    trace = reranked(energy=lambda x: -9.0 * (x == 1).sum(-1)).generate(None, 3, seed=0).trace()
    trace.save(tmp_path / "steps.svg")
    root = ElementTree.parse(tmp_path / "steps.svg").getroot()
    shown = [line for line in root.iter(f"{SVG}text") if len(line)]
    steps = trace.rows[0]["steps"]
    assert EVIL in text_of(steps[-1]) and {child.tag for child in root.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "rect", "text", "tspan")
    }
    assert "".join("".join(line.itertext()) for line in shown).replace(" ", "") == "".join(map(text_of, steps)).replace(
        " ", ""
    )


def test_lines_of_the_picture_break_at_blanks_and_at_line_ends():
    pieces = [{"kind": "given", "text": "one two\nthree " + 30 * "word "}, {"kind": "new", "text": 100 * "x"}]
    root = ElementTree.fromstring(picture_of([{"pieces": pieces}]))
    lines = ["".join(line.itertext()) for line in root.iter(f"{SVG}text") if len(line)]
    assert lines[0] == "one two" and lines[1].startswith("three word") and lines[1].endswith("word")
    assert max(map(len, lines)) == 88 and sum(line.count("x") for line in lines) == 100


def test_a_trace_of_another_suffix_is_refused(tmp_path, capsys):
    trace = reranked().generate(None, 3, seed=0).trace()
    with pytest.raises(ValueError, match="a trace must end in .html or .svg, got .*trace.png"):
        trace.save(tmp_path / "trace.png")
    assert main(["sample", "--trace", str(tmp_path / "trace.png"), "--num_samples=1", "--length=8"]) == 2
    assert "must end in .html or .svg" in capsys.readouterr().err and not [*tmp_path.iterdir()]
