"""Energies of finished texts, whoever wrote them: of causal LMs, given the prompt, and of functions of text."""

from collections.abc import Callable, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.energies.base import Energy
from edlm.energies.callable import TextFunctionEnergy, as_numbers
from edlm.energies.causal_lm import PACKAGE, first_token, load_causal_lm
from edlm.energies.causal_scoring import TokenScorer
from edlm.energies.loading import CAUSAL, TEXT, load_energy
from edlm.energies.served_lm import ServedLM
from edlm.energies.text import TextEnergy

FinishedEnergy = Callable[[Sequence[str], Sequence[Sequence[str]]], list[Tensor]]
"""``f(prompts, texts of each) -> energies of each``, nats, float64, on the CPU."""

ROWS_AT_A_TIME = 16


def load_finished_energy(
    energy: str | Path | Energy | Callable[[list[str]], Sequence[float]], device: torch.device | str = "cpu"
) -> FinishedEnergy:
    """What judges finished texts.

    Args:
        energy: ``"causal:PATH"``, ``"text:PATH"`` or ``"package:NAME"`` for any causal LM (see `ConditionalScorer`),
            ``"server:URL#MODEL"`` for one that is served elsewhere; a saved or shipped energy by its name, or an
            `Energy`: an `AutoregressiveEnergy` with its tokenizer, with its own BOS before the prompt, or a
            `TextEnergy`, with its own if that is not the tokenizer's; or a function ``f(texts) -> energies``, also as
            `CallableEnergy.on_text` has it, of prompt and text together.
        device: Where a model that is named here runs.

    Raises:
        OSError: there is no such model or energy.
        ValueError: an energy of another kind.
    """
    if isinstance(energy, str | Path):
        name = str(energy)
        path = name.removeprefix(CAUSAL).removeprefix(TEXT)
        if path != name or name.startswith(PACKAGE):
            model, tokenizer, _ = load_causal_lm(path, device=device)
            return ConditionalScorer(model, tokenizer)
        energy = load_energy(name).to(device)
    if isinstance(energy, AutoregressiveEnergy) and energy.tokenizer is not None:
        return ConditionalScorer(energy.model, energy.tokenizer, energy.bos_token_id, **energy.scoring)
    if isinstance(energy, TextEnergy):
        if isinstance(scorer := energy.scorer, ServedLM):
            return _of_served(scorer)
        is_own = scorer.bos_token_id != first_token(scorer.tokenizer)  # else the tokenizer says what goes where
        begin = scorer.bos_token_id if is_own else None
        return ConditionalScorer(scorer.model, scorer.tokenizer, begin, max_positions=scorer.max_positions)
    if isinstance(energy, Energy) and not isinstance(energy, TextFunctionEnergy):
        raise ValueError(
            f"finished texts need a causal LM ('causal:PATH') or a function of text, got a {type(energy).__name__}, "
            "which judges tokens of a denoising step"
        )
    return _of_function(energy.f if isinstance(energy, TextFunctionEnergy) else energy)


def _of_served(lm: ServedLM) -> FinishedEnergy:
    """``E = -log p_LM(text | prompt)`` as a difference of two losses: tokens before the text have the same terms."""

    def energies(prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Tensor]:
        rows = [[p, *(p + text for text in of_prompt)] for p, of_prompt in zip(prompts, texts, strict=True)]
        distinct = list(dict.fromkeys(text for row in rows for text in row))
        nats = dict(zip(distinct, lm.score(distinct)[0], strict=True))
        return [torch.stack([nats[text] - nats[row[0]] for text in row])[1:] for row in rows]

    return energies


def _of_function(f: Callable[[list[str]], Sequence[float]]) -> FinishedEnergy:
    def energies(prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Tensor]:
        whole = [prompt + text for prompt, of_prompt in zip(prompts, texts, strict=True) for text in of_prompt]
        values = as_numbers(f(whole), torch.empty(len(whole), dtype=torch.float64))
        return list(values.split([len(of_prompt) for of_prompt in texts]))

    return energies


class ConditionalScorer:
    """``E = -log p_LM(text | prompt)``, nats, of a causal LM that reads prompt + text by its own tokenizer.

    ``E = log p_LM(tokens of the prompt) - log p_LM(tokens of prompt + text)``

    from the first token on in which they differ: the text's own tokens, unless one of them spans the border. The end of
    a text is not scored, unless the text spells out the LM's eos.

    Args:
        model: The causal LM.
        tokenizer: Its tokenizer, which reads special tokens that a prompt spells out (a chat's frame).
        bos_token_id: Token before every prompt that does not begin with it. By default what the tokenizer itself puts
            there; and where it puts nothing and the prompt is empty, its bos, else its eos.
        scoring: Options of `TokenScorer`.

    Raises:
        ValueError: the model takes no ``logits_to_keep``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        bos_token_id: int | None = None,
        **scoring: Any,
    ):
        self.tokenizer = tokenizer
        self._begin = self._encode([""], True)[0][:1] if bos_token_id is None else [bos_token_id]
        self._scorer = TokenScorer(model.eval(), None, **scoring)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Tensor]:
        """Energies of the texts of each prompt, each distinct one scored once.

        Raises:
            ValueError: a prompt with its text is too long for the LM, or nothing goes before a first token.
        """
        rows = [self._read(prompt, of_prompt) for prompt, of_prompt in zip(prompts, texts, strict=True)]
        energies: list[Tensor] = [torch.empty(0)] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda r: max(map(len, rows[r][0])), reverse=True)
        for start in range(0, len(by_length), ROWS_AT_A_TIME):
            chunk = by_length[start : start + ROWS_AT_A_TIME]
            sequences = [torch.tensor(ids) for r in chunk for ids in rows[r][0]]
            first = torch.tensor([rows[r][1] for r in chunk for _ in rows[r][0]])
            owner = torch.tensor([r for r in chunk for _ in rows[r][0]])
            tokens = pad_sequence(sequences, batch_first=True)
            places = torch.arange(tokens.shape[1])
            lengths = torch.tensor([len(ids) for ids in sequences])
            terms = (first[:, None] <= places) & (places < lengths[:, None])
            some = terms.any(1)  # the prompt itself has none, unless a token spans the border
            log_p = torch.zeros(len(sequences), dtype=torch.float64)
            if some.any():
                log_p[some] = self._scorer.sum_terms(tokens[some], terms[some], owner[some]).double().cpu()
            for r, sums in zip(chunk, log_p.split([len(rows[r][0]) for r in chunk]), strict=True):
                energies[r] = (sums[:1] - sums)[rows[r][2]]
        return energies

    def _read(self, prompt: str, texts: Sequence[str]) -> tuple[list[list[int]], int, list[int]]:
        """Tokens of the prompt and of it with each distinct text; where they begin to differ; each text's place."""
        distinct = list(dict.fromkeys([prompt, *(prompt + text for text in texts)]))
        sequences = [ids if ids[:1] == self._begin else self._begin + ids for ids in self._encode(distinct)]
        if not commonprefix(sequences):
            sequences = [[first_token(self.tokenizer), *ids] for ids in sequences]
        return sequences, len(commonprefix(sequences)), [distinct.index(prompt + text) for text in texts]

    def _encode(self, texts: list[str], special: bool = False) -> list[list[int]]:
        options: dict[str, Any] = {"add_special_tokens": special, "verbose": False}
        return [list(ids) for ids in self.tokenizer(texts, **options)["input_ids"]]
