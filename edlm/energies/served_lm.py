"""A causal LM served elsewhere, over the OpenAI completions protocol with log-probabilities of the prompt."""

import math
from collections.abc import Sequence
from os.path import commonprefix
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import torch
from torch import Tensor

from edlm.energies.server import Server
from edlm.energies.text_scorer import TextScorer
from edlm.rules import check, check_given, shown

_PROBES = ("The cat", "a dog", "1 day", "(see)")  # each begins and ends with another token
_PATH = "completions"
_TOP = 5  # most probable tokens of each place
_NEAR = 0.1  # nats by which one distribution may differ between requests: batches are computed in half precision
_IN_NAMES = {"bos": str, "eos": str, "batch_size": int}


class Echo(NamedTuple):
    """A text as a server read it.

    Attributes:
        tokens: Spelling of its tokens, in order.
        log_probs: Log-probability of each given those before it, nats; None for the first one.
        top: At each place, log-probabilities of the most probable tokens.
    """

    tokens: list[str]
    log_probs: list[float | None]
    top: list[dict[str, float] | None]


class ServedLM(TextScorer):
    """``-log p(text) = -sum_i log p(token^i | BOS, token^0 .. token^{i-1})``, nats, of an LM behind a server.

    The server's own tokenizer encodes a text. Some token must stand before it, for a server has no log-probability of
    the first one: the server's own (vLLM and SGLang put the bos of most LMs there), or ``bos``. Four requests to begin
    with find out which tokens these are, and refuse a server whose log-probabilities belong to other places.

    Args:
        url: Of the protocol, such as ``"http://localhost:8000/v1"``; it has ``/completions`` below it.
        model: The name of the model there.
        bos: Text before each text, best of special tokens: ``"<s>"``, where the server puts none.
        eos: Text of the LM's token that ends a text; None if texts have no end.
        batch_size: Texts of a request; llama-cpp-python's server takes 1.
        connection: Options of `Server`: ``api_key``, ``timeout``, ``max_attempts``.

    Raises:
        ValueError: an option breaks its rule.
        ServerError: there is no answer, or not as the protocol says.

    Note:
        Served by: vLLM, SGLang, and ``python -m llama_cpp.server --logits_all true``. The last one hides the LM's bos
        together with the term of the token after it, so there ``bos`` must be two special tokens, the LM's bos first.
    """

    def __init__(
        self, url: str, model: str, *, bos: str = "", eos: str | None = None, batch_size: int = 16, **connection: Any
    ):
        super().__init__(batch_size)
        check_given(model=model)
        if eos == "":
            raise ValueError("eos must be the text of a token, got ''")
        self.model = check("model", model, str)
        self.bos = check("bos", bos, str)
        self.eos = check("eos", eos, str | None)
        self._server = Server(url, **connection)
        self._hidden = 0
        self._before = self._tokens_before()

    @classmethod
    def from_name(cls, name: str, **options: Any) -> "ServedLM":
        """From ``URL#MODEL`` or ``URL?bos=TEXT&eos=TEXT&batch_size=N#MODEL``, texts percent-encoded.

        Raises:
            ValueError: there is no model's name, or an unknown option; and as for the class.
            ServerError: as for the class.
        """
        address, _, model = name.partition("#")
        if not model:
            raise ValueError("a served LM must be named URL#MODEL, got no #MODEL")
        url, _, query = address.partition("?")
        given = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := sorted(given.keys() - _IN_NAMES.keys()):
            raise ValueError(f"options of a served LM's name must be of {', '.join(_IN_NAMES)}, got {unknown[0]}")
        if not given.get("batch_size", "1").isdecimal():
            raise ValueError(f"batch_size must be an integer, got {shown(given['batch_size'])}")
        return cls(url, model, **{key: _IN_NAMES[key](value) for key, value in given.items()}, **options)

    @property
    def has_eos(self) -> bool:
        return self.eos is not None

    def settings(self) -> dict[str, Any]:
        return {"url": self._server.url, "model": self.model, "bos": self.bos, "eos": self.eos}

    @property
    def name(self) -> str:
        return f"{self.model} at {self._server.url}"

    def _read(self, texts: list[str], ended: Sequence[bool]) -> list[str]:
        return [text + (self.eos or "") * over for text, over in zip(texts, ended, strict=True)]

    def _score(self, batch: list[str]) -> tuple[Tensor, Tensor]:
        start, nats, counts = len(self._before), [], []
        for text, echo in zip(batch, self._ask([self.bos + text for text in batch]), strict=True):
            if echo.tokens[:start] != self._before or len(echo.tokens) == start:
                raise self._error(f"other tokens before {shown(text)}: bos must be tokens that merge with no text")
            nats.append(-math.fsum(echo.log_probs[start:]))
            counts.append(len(echo.tokens) - start)
        return torch.tensor(nats, dtype=torch.float64), torch.tensor(counts)

    def _tokens_before(self) -> list[str]:
        """The tokens that the server lists before every text."""
        prompts = [self.bos + text for text in _PROBES]
        parts = [prompts[i : i + self.batch_size] for i in range(0, len(prompts), self.batch_size)]
        echoes = [echo for part in parts for echo in self._ask(part, begins=True)]
        before = commonprefix([echo.tokens for echo in echoes])
        for text, echo in zip(_PROBES, echoes, strict=True):
            if len(echo.tokens) == len(before) or not echo.tokens[-1].endswith(text[-1]):
                raise self._error(f"tokens {shown(echo.tokens)} of {shown(self.bos + text)}, which do not spell it")
        if not before:
            raise self._error(
                "no log-probability of a text's first token, for nothing stands before it; give bos, such as '<s>'"
            )
        first, *others = [echo.top[len(before)] or {} for echo in echoes]
        for other in others:
            shared = first.keys() & other.keys()
            if not shared or any(abs(first[token] - other[token]) > _NEAR for token in shared):
                raise self._error("log-probabilities that depend on later tokens: they belong to other places")
        return before

    def _ask(self, prompts: list[str], begins: bool = False) -> list[Echo]:
        """What the server read, checked; of one that ``begins``, the number of tokens that it hides is learnt."""
        options = {
            "max_tokens": 1,  # 0 is no limit for some
            "temperature": 0,
            "echo": True,
            "logprobs": _TOP if begins else 1,
        }
        answer = self._server.post(_PATH, {"model": self.model, "prompt": prompts, **options})
        choices, usage = answer.get("choices"), answer.get("usage")
        num_read, num_new = (
            usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")
        )
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise self._error(f"no choices but {shown(answer)}")
        indices = [choice.get("index") for choice in choices]
        if len(indices) != len(prompts) or not all(i in indices for i in range(len(prompts))):
            raise self._error(f"{len(choices)} choices for {len(prompts)} texts, or not one of each index")
        if not isinstance(num_read, int) or num_new not in (0, len(prompts)):
            raise self._error(f"a usage that is not of {len(prompts)} texts and one more token each: {shown(usage)}")
        of_prompts = [choices[indices.index(i)] for i in range(len(prompts))]
        echoes = [self._echo(c, prompt, num_new // len(prompts)) for c, prompt in zip(of_prompts, prompts, strict=True)]
        hidden = num_read - sum(len(echo.tokens) for echo in echoes)
        if begins:
            self._hidden = hidden // len(prompts)
        if hidden != self._hidden * len(prompts) or not 0 <= self._hidden <= 1:
            raise self._error(f"{num_read - hidden} tokens of texts that it read as {num_read}")
        return echoes

    def _echo(self, choice: dict[str, Any], prompt: str, num_new: int) -> Echo:
        text, listed = choice.get("text"), choice.get("logprobs")
        if not isinstance(text, str) or not text.startswith(prompt):
            raise self._error(f"a text without the prompt (echo): {shown(text)} for {shown(prompt)}")
        found = [listed.get(name) if isinstance(listed, dict) else None for name in _LISTS]
        if not all(isinstance(values, list) and len(values) == len(found[0]) > num_new for values in found):
            raise self._error(f"no lists {', '.join(_LISTS)} of a place each (logprobs) but {shown(listed)}")
        if not all(isinstance(token, str) for token in found[0]):
            raise self._error(f"no tokens but {shown(found[0])}")
        if not all(isinstance(top, dict | None) for top in found[-1]):
            raise self._error(f"no top_logprobs by token but {shown(found[-1])}")
        echo = Echo(*(values[: len(values) - num_new] for values in found))
        if echo.log_probs[0] is not None:
            raise self._error(f"a log-probability of the first token, {shown(echo.log_probs[0])}, which must be null")
        for value in echo.log_probs[1:]:
            if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDING:
                raise self._error(f"{shown(value)} in place of a token's log-probability, in {shown(prompt)}")
        return echo

    def _error(self, received: str) -> Exception:
        return self._server.error(_PATH, received)


_LISTS = ("tokens", "token_logprobs", "top_logprobs")
_ROUNDING = 1e-3  # nats by which a log-probability may be above 0
