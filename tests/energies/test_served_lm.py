"""An LM behind a server: its energies are those of the same LM here, and no fault becomes a wrong energy."""

import json
import math

import pytest
import torch

from edlm.cli import main
from edlm.energies import TextEnergy, load_energy, server
from edlm.energies.card import EnergyCard
from edlm.energies.finished import load_finished_energy
from edlm.energies.served_lm import ServedLM
from edlm.energies.server import Server, ServerError
from edlm.evaluation.experiment.parts import methods_named
from edlm.sampler import EnergySampler
from tests.energies.stub_server import StubServer, cut, drop, failing, send, slow, trickle
from tests.energies.test_text import (
    MERGED,
    causal_lm,
    characters,
    decision_with_gaps,
    log_p_lm,
    pairs,
    spelling_denoiser,
)

LETTERS = "The tdogy1(s)"
KEY = "sk-secret-123"
TEXTS = ["abca", "", "c", "bcab", "abc"]


def tiny_lm():
    """It knows more letters than the denoiser, as a server's LM does."""
    return causal_lm(n_positions=40, vocab_size=len(MERGED) + len(LETTERS))


@pytest.fixture
def stub():
    with StubServer(tiny_lm(), pairs(LETTERS), bos="<bos>").running() as running:
        yield running


@pytest.fixture
def waits(monkeypatch):
    """Seconds that are waited for between attempts, which are not waited for."""
    asked = []
    monkeypatch.setattr(server.time, "sleep", asked.append)
    return asked


@pytest.fixture
def lm(stub):
    served = ServedLM(stub.url, "tiny", eos="<eos>")
    stub.requests.clear()
    return served


def local(**options):
    return TextEnergy(tiny_lm(), pairs(LETTERS), **options)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("eos", [None, 2])
def test_energies_are_those_of_the_same_lm_here(stub, batch_size, eos):
    decision = decision_with_gaps()
    served = TextEnergy.from_server(
        stub.url, "tiny", characters(), eos="<eos>", batch_size=batch_size, eos_token_id=eos
    )
    stub.requests.clear()
    torch.testing.assert_close(served(decision), local(eos_token_id=eos)(decision), atol=1e-5, rtol=0)
    assert all(len(request["prompt"]) <= batch_size for request in stub.requests)
    assert {(request["path"], request["model"]) for request in stub.requests} == {("/v1/completions", "tiny")}
    asked = [text for request in stub.requests for text in request["prompt"]]
    assert len(asked) == len(set(asked))


def test_losses_are_sums_over_the_lms_own_tokens(lm):
    nats, counts = lm.score(TEXTS, ended=[False, False, True, False, True])
    model = tiny_lm()
    expected = [-log_p_lm(model, text, i in (2, 4)) for i, text in enumerate(TEXTS)]
    assert nats.tolist() == pytest.approx(expected, abs=1e-5)
    assert counts.tolist() == [2, 0, 2, 2, 3] and nats.dtype == torch.float64
    assert lm.score([])[0].shape == (0,)
    with pytest.raises(ValueError, match="texts must be a sequence of strings, got one string, 'ab'"):
        lm.score("ab")


def test_bos_goes_before_a_text_where_the_server_puts_none():
    with StubServer(tiny_lm(), pairs(LETTERS)).running() as bare:
        with pytest.raises(ServerError, match="no log-probability of a text's first token.* give bos, such as '<s>'"):
            ServedLM(bare.url, "tiny")
        lm = ServedLM(bare.url, "tiny", bos="<bos>")
        torch.testing.assert_close(lm.score(TEXTS)[0], local().scorer.score(TEXTS)[0], atol=1e-5, rtol=0)
        with pytest.raises(ServerError, match=r"other tokens before 'bc': bos must be tokens that merge with no text"):
            ServedLM(bare.url, "tiny", bos="<bos>a").score(["bc"])
        with pytest.raises(ValueError, match="a text that ended needs an eos of the LM, got tiny at http://127.0.0.1"):
            lm.score(["a"], ended=[True])
        with pytest.raises(ValueError, match="eos_token_id needs an eos of the LM too, got tiny at"):
            TextEnergy(lm, eos_token_id=2)


def test_the_sampler_draws_through_a_server_what_it_draws_here(stub):
    denoiser, options = spelling_denoiser(), {"num_steps": 2, "num_candidates": 6, "scope": "sequence"}
    samples = [
        EnergySampler(denoiser, energy, **options).sample(6, 3, seeds=range(6))
        for energy in (load_energy(f"server:{stub.url}?eos=%3Ceos%3E&batch_size=3#org/tiny"), local())
    ]
    assert torch.equal(samples[0].tokens, samples[1].tokens)
    for ours, theirs in zip(samples[0].steps, samples[1].steps, strict=True):
        torch.testing.assert_close(ours.energies, theirs.energies, atol=1e-5, rtol=0)
    assert samples[0].steps[0].energies.std() > 0.1
    assert {request["model"] for request in stub.requests} == {"org/tiny"}


def test_finished_texts_are_judged_given_their_prompt(stub):
    prompts, texts = ["ab", ""], [["ca", "b", ""], ["a", "bc"]]
    served = load_finished_energy(f"server:{stub.url}#tiny")(prompts, texts)
    model = tiny_lm()
    for prompt, of_prompt, energies in zip(prompts, texts, served, strict=True):
        expected = [log_p_lm(model, prompt) - log_p_lm(model, prompt + text) for text in of_prompt]
        assert energies.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("faults", "timeout"),
    [
        ([drop], 60.0),
        ([cut], 60.0),
        ([slow], 1.0),
        ([trickle], 1.0),
        ([failing(500), drop, failing(503, "busy")], 60.0),
        ([failing(429)] * 4, 60.0),
    ],
)
def test_what_may_pass_is_asked_again(stub, lm, waits, faults, timeout):
    lm._server.timeout = timeout
    expected = local().scorer.score(TEXTS)[0]
    stub.faults = list(faults)
    torch.testing.assert_close(lm.score(TEXTS)[0], expected, atol=1e-5, rtol=0)
    assert len(stub.requests) == 1 + len(faults) and not stub.faults
    assert all(stub.requests[0] == request for request in stub.requests)
    assert len(waits) == len(faults) and all(2**i / 2 <= wait <= 2**i for i, wait in enumerate(waits))


def test_a_server_says_how_long_to_wait(stub, lm, waits):
    stub.faults = [failing(429, Retry_After="7"), failing(503, Retry_After="99999"), failing(503, Retry_After="soon")]
    lm.score(["ab"])
    assert waits[:2] == [7.0, 60.0] and 2 <= waits[2] <= 4


def test_attempts_are_bounded_and_the_last_failure_is_told(stub, lm, waits):
    stub.faults = [failing(500, "first"), failing(500, "no\nmemory")] * 9
    lm._server.max_attempts = 4
    with pytest.raises(ServerError) as raised:
        lm.score(["ab"])
    assert str(raised.value) == (
        f"{stub.url}/completions must answer, got HTTP 500 Internal Server Error 'no\\nmemory', the last of 4 attempts"
    )
    assert len(stub.requests) == 4 and len(waits) == 3


def test_a_server_that_is_not_there_is_told(waits):
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9/v1/completions must answer, got ConnectionRefusedError"):
        ServedLM("http://127.0.0.1:9/v1/", "tiny", max_attempts=2)
    assert len(waits) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 307])
def test_what_would_come_back_again_is_not_asked_again(stub, lm, waits, status):
    stub.faults = [failing(status, f"bad {KEY}", Location=f"{stub.url}/other")]
    lm._server._key = KEY
    with pytest.raises(ServerError, match=rf"got HTTP {status} [\w ]+ 'bad \[key\]'$") as raised:
        lm.score(["ab"])
    assert len(stub.requests) == 1 and not waits and KEY not in repr(raised.value)


def at(name, place, value):
    """Edit one entry of a list of the first choice."""
    return lambda answer, choice, logprobs: logprobs[name].__setitem__(place, value)


def of_choice(**values):
    return lambda answer, choice, logprobs: choice.update(values)


def of_logprobs(**values):
    return lambda answer, choice, logprobs: logprobs.update(values)


def of_answer(**values):
    return lambda answer, choice, logprobs: answer.update(values)


def without_a_token(answer, choice, logprobs):
    for values in logprobs.values():
        del values[1]


LISTS = "no lists tokens, token_logprobs, top_logprobs of a place each"
USAGE = "a usage that is not of 3 texts and one more token each: "
WRONG = {
    "fewer choices": (lambda a, *_: a["choices"].pop(), "2 choices for 3 texts"),
    "more choices": (lambda a, c, _: a["choices"].append(c), "4 choices for 3 texts"),
    "an index twice": (of_choice(index=0), "3 choices for 3 texts, or not one of each index"),
    "an index of another kind": (of_choice(index={}), "3 choices for 3 texts, or not one of each index"),
    "no choices": (of_answer(choices=None), "no choices but {'choices': None"),
    "choices of text": (of_answer(choices=["a"]), r"no choices but {'choices': \['a'\]"),
    "no usage": (of_answer(usage=None), USAGE + "None"),
    "usage of 2 texts": (of_answer(usage={"prompt_tokens": 9, "completion_tokens": 2}), USAGE + "{'prompt"),
    "no logprobs": (of_choice(logprobs=None), rf"{LISTS} \(logprobs\) but None"),
    "null logprobs": (of_logprobs(token_logprobs=None), LISTS),
    "a shorter list": (lambda a, c, logprobs: logprobs["token_logprobs"].pop(), LISTS),
    "no token": (at("tokens", 1, None), r"no tokens but \['<bos>', None"),
    "no top": (at("top_logprobs", 1, 3.0), r"no top_logprobs by token but \[None, 3.0"),
    "a null token": (at("token_logprobs", 1, None), r"None in place of a token's log-probability, in '\w+'"),
    "a token of text": (at("token_logprobs", 1, "-1"), "'-1' in place of a token's log-probability"),
    "nan": (at("token_logprobs", 1, math.nan), "nan in place of a token's log-probability"),
    "a probability": (at("token_logprobs", 1, 0.7), "0.7 in place of a token's log-probability"),
    "a missing token": (without_a_token, r"\d tokens of texts that it read as \d"),
    "no echo": (of_choice(text="?"), r"a text without the prompt \(echo\): '\?' for '\w+'"),
    "the first token": (at("token_logprobs", 0, -1.0), "a log-probability of the first token, -1.0"),
    "another bos": (at("tokens", 0, "<s>"), "other tokens before '"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_an_error_and_never_an_energy(stub, lm, waits, kind):
    edit, message = WRONG[kind]
    stub.change = lambda answer: edit(answer, (first := answer["choices"][0]), first["logprobs"]) and answer or answer
    with pytest.raises(ServerError, match=rf"^{stub.url}/completions must answer, got .*{message}"):
        lm.score(["abca", "b", "abc"])
    assert len(stub.requests) == 1 and not waits


def test_a_key_is_not_shown_in_part_where_a_text_is_cut(stub, lm):
    lm._server._key = KEY
    stub.faults = [lambda handler, answer: send(handler, "x" * 70 + KEY)]
    with pytest.raises(ServerError) as raised:
        lm.score(["ab"])
    assert KEY[:4] not in str(raised.value)


@pytest.mark.parametrize("sent", ["<html>", "[]", "null", "{", "[" * 9])
def test_an_answer_that_is_no_json_object_is_shown(stub, lm, sent):
    stub.faults = [lambda handler, answer: send(handler, sent * (11_111 if len(sent) == 9 else 1))]
    with pytest.raises(ServerError, match=rf"got no JSON object but '{sent}".replace("[", r"\[")):
        lm.score(["ab"])


def shifted(answer):
    """Terms one place too early, as llama-cpp-python lists them where it puts no bos."""
    for choice in answer["choices"]:
        listed = choice["logprobs"]
        for name in ("token_logprobs", "top_logprobs"):
            listed[name] = [None, *listed[name][2:], listed[name][-1]]
    return answer


def unconditional(answer):
    """The bos is hidden, together with the term of the first token."""
    for choice in answer["choices"]:
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            del choice["logprobs"][name][0]
        choice["logprobs"]["token_logprobs"][0] = None
    return answer


def unlisted(answer):
    """The token after the text is counted, but not listed."""
    for choice in answer["choices"]:
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            del choice["logprobs"][name][-1]
    return answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shifted, "log-probabilities that depend on later tokens"),
        (unconditional, "of a text's first token, for"),
        (unlisted, r"tokens \['<bos>', .* of 'The cat', which do not spell it"),
    ],
)
def test_a_server_whose_terms_are_of_other_tokens_is_refused(stub, change, message):
    stub.change = change
    with pytest.raises(ServerError, match=message):
        ServedLM(stub.url, "tiny")


def test_a_hidden_bos_needs_a_token_after_it_and_then_the_terms_are_exact(stub):
    stub.change = unconditional
    lm = ServedLM(stub.url, "tiny", bos="<eos>")
    whole, first = (local().scorer.score(texts)[0] for texts in (["<eos>" + text for text in TEXTS], ["<eos>"]))
    expected = torch.where(torch.tensor([text != "" for text in TEXTS]), whole - first, 0.0)
    torch.testing.assert_close(lm.score(TEXTS)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_the_key_is_sent_and_shown_nowhere(stub, monkeypatch, capsys, given):
    if given == "environment":
        monkeypatch.setenv("EDLM_API_KEY", KEY)
    energy = TextEnergy.from_server(stub.url, "tiny", **({"api_key": KEY} if given == "argument" else {}))
    assert set(stub.keys) == {f"Bearer {KEY}"}
    card = EnergyCard.of(energy)
    shown = [repr(energy), repr(energy.scorer), repr(energy.scorer._server), json.dumps(energy.settings()), str(card)]
    assert not any(KEY in text for text in shown)
    assert energy.settings() == {"url": stub.url, "model": "tiny", "bos": "", "eos": None}
    other = EnergyCard.of(TextEnergy.from_server(stub.url, "other"))
    assert card.fingerprint != other.fingerprint and card.kind == other.kind == "TextEnergy"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"http://me:{KEY}@host/v1", "without user, password and query"),
        (f"http://host/v1?key={KEY}", "without user, password and query"),
        ("http://host/a b", "without user, password and query"),
        (f"ftp://{KEY}/v1", "got one of 'ftp' with other parts"),
        (f"http://host:{KEY}/v1", "url must be an address"),
        (KEY, "got one of 'no scheme' with other parts"),
        (3, "url must be an address"),
    ],
)
def test_a_url_with_a_secret_in_it_is_refused_without_showing_it(url, message):
    with pytest.raises(ValueError, match=message) as raised:
        Server(url)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("server:http://host/v1", "a served LM must be named URL#MODEL, got no #MODEL"),
        ("server:http://host/v1?key=1#m", "options of a served LM's name must be of bos, eos, batch_size, got key"),
        ("server:http://host/v1?batch_size=x#m", "batch_size must be an integer, got 'x'"),
        ("server:http://host/v1?batch_size=0#m", "batch_size must be >= 1, got 0"),
        ("server:http://host/v1?eos=#m", "eos must be the text of a token, got ''"),
    ],
)
def test_mistakes_in_the_name_are_told_before_anything_is_asked(name, message):
    with pytest.raises(ValueError, match=message):
        load_energy(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout must be > 0 seconds, got 0"),
        ({"max_attempts": 0}, "max_attempts must be >= 1, got 0"),
        ({"api_key": "a\nb"}, "an API key must be printable ASCII in one line"),
    ],
)
def test_options_of_a_connection_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ServedLM("http://host", "tiny", **options)
    with pytest.raises(ValueError, match="revision needs a repository of the hub"):
        load_energy("server:http://host#tiny", revision="main")


def test_a_failing_server_is_one_line_of_the_command(stub, waits, capsys):
    stub.faults = [failing(404, "no such model")]
    words = ["sample", "--energy", f"server:{stub.url}#tiny", "--num_samples", "1"]
    assert main(words) == 2
    line = f"edlm: error: {stub.url}/completions must answer, got HTTP 404 Not Found 'no such model'\n"
    assert capsys.readouterr().err.endswith(line)


def test_names_of_methods_are_those_of_served_models():
    assert [m.name for m in methods_named(["server:http://host:1/v1#org/tiny", "server:http://host#big"])] == [
        "tiny",
        "big",
    ]
