"""Synthetic languages with known truth: exact samples, likelihoods and posteriors."""

import torch
from torch import Tensor

from edlm.corpus.dyck import Dyck
from edlm.corpus.language import (
    Language,
    check_count,
    check_draw,
    check_generator,
    check_probabilities,
    check_rows,
    check_tokens,
)

__all__ = ["Dyck", "HiddenMarkov", "MarkovChain"]

ROWS_PER_PASS = 2048  # bounds the memory of the messages


class HiddenMarkov(Language):
    """Language of a hidden Markov chain; every probability is exact, in float64, nats.

    p(x) = sum_z initial[z_1] emission[z_1, x_1] prod_i transition[z_{i-1}, z_i] emission[z_i, x_i]

    Args:
        transition: Rows P(next state | state), shape ``[S, S]``; list, array or tensor.
        emission: Rows P(token | state), shape ``[S, V]``.
        initial: P(first state), shape ``[S]``.

    Attributes:
        vocab_size, mask_token_id: ``V``.

    Raises:
        ValueError: wrong shape, negative or non-finite entry, a row sum off 1 by more than 1e-6.

    Note:
        A state that is more than 1e300 times less likely than the likeliest counts as impossible.

    References:
        Rabiner 1989, A tutorial on hidden Markov models.

    Example:
        >>> emission = [[0.7, 0.3, 0.0], [0.0, 0.2, 0.8]]
        >>> language = HiddenMarkov([[0.9, 0.1], [0.4, 0.6]], emission, [1, 0])
        >>> x_t = torch.tensor([[0, 3]])  # 3 is the mask
        >>> language.log_prob(x_t).exp()
        tensor([0.7000], dtype=torch.float64)
        >>> language.log_marginals(x_t).exp()[0, 1]  # 0.9 * 0.7, 0.9 * 0.3 + 0.1 * 0.2, 0.1 * 0.8
        tensor([0.6300, 0.2900, 0.0800], dtype=torch.float64)
    """

    def __init__(self, transition, emission, initial):
        self.initial = check_probabilities("initial", initial, "S")
        states = len(self.initial)
        self.transition = check_probabilities("transition", transition, states, states)
        self.emission = check_probabilities("emission", emission, states, "V")
        self.vocab_size = self.mask_token_id = self.emission.shape[1]

    @staticmethod
    def reference() -> "HiddenMarkov":
        """The language of method.md, section 7: 2.29 nats per token at length 32."""
        g = torch.Generator().manual_seed(1)
        transition, emission = (_sparse_rows(16, columns, 3, g, 0.02) for columns in (16, 32))
        return HiddenMarkov(transition, emission, [1 / 16] * 16)

    def sample(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        n, length = check_draw(n, length, generator)
        first, step = _cdf(self.initial[None], generator), _cdf(self.transition, generator)
        states = [_draw(first, torch.zeros(n, dtype=torch.long, device=first.device), generator)]
        while len(states) < length:
            states.append(_draw(step, states[-1], generator))
        return torch.stack(self._emit(states, generator), 1)

    def log_prob(self, x: Tensor) -> Tensor:
        x = check_tokens(x, self.mask_token_id)
        return torch.cat([self._forward(rows)[1] for rows in x.split(ROWS_PER_PASS)])

    def log_marginals(self, x_t: Tensor) -> Tensor:
        x_t = check_tokens(x_t, self.mask_token_id, name="x_t")
        posterior = torch.cat([self._posterior(rows) for rows in x_t.split(ROWS_PER_PASS)])
        impossible = posterior.isnan().flatten(1).any(1)
        check_rows(impossible, "observed tokens of x_t must have positive probability, got zero")
        return posterior.log_()

    def is_valid(self, x: Tensor) -> Tensor:
        x = check_tokens(x, self.mask_token_id, observed=True)
        tables = (self.initial, self.transition, self.emission.T)
        first, step, emitted = ((table > 0).double().to(x.device) for table in tables)
        reached = first * emitted[x[:, 0]]
        for token in x.unbind(1)[1:]:  # 0/1 after every step, so that nothing can underflow
            reached = ((reached @ step) * emitted[token] > 0).double()
        return reached.any(1)

    def _emit(self, states: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        emission = _cdf(self.emission, generator)
        return [_draw(emission, state, generator) for state in states]

    def _likelihood(self, x: Tensor) -> Tensor:
        """P(token | state) for every id, the mask last (1: summed out); ``[V + 1, S]``."""
        return torch.cat([self.emission.T, torch.ones_like(self.initial)[None]]).to(x.device)

    def _forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """P(state | tokens so far), `length` times ``[rows, S]``, and log p(x), ``[rows]``."""
        likelihood, transition = self._likelihood(x), self.transition.to(x.device)
        state, states, scales = self.initial.to(x.device).expand(len(x), -1), [], []
        for i, token in enumerate(x.unbind(1)):
            state = (state @ transition if i else state) * likelihood.index_select(0, token)
            scales.append(state @ likelihood[-1])  # the sum: faster as a product with ones
            state /= torch.where(scales[-1] > 0, scales[-1], 1)[:, None]
            states.append(state)
        return states, torch.stack(scales).log_().sum(0)

    def _posterior(self, x_t: Tensor) -> Tensor:
        """P(x^i = v | observed), ``[rows, length, V]``; NaN in rows that are impossible."""
        forward, log_prob = self._forward(x_t)
        likelihood, emission = self._likelihood(x_t), self.emission.to(x_t.device)
        posterior = emission.new_empty(*x_t.shape, self.vocab_size)
        backward = torch.ones_like(forward[0])
        for i in reversed(range(x_t.shape[1])):
            # In logs, since the product of the two may underflow.
            posterior[:, i] = torch.softmax(forward[i].log() + backward.log(), 1) @ emission
            backward = (backward * likelihood[x_t[:, i]]) @ self.transition.T.to(x_t.device)
            backward /= backward.amax(1, keepdim=True)
        seen = x_t != self.mask_token_id
        posterior[seen] = torch.nn.functional.one_hot(x_t[seen], self.vocab_size).double()
        posterior[log_prob == -torch.inf] = torch.nan
        return posterior


class MarkovChain(HiddenMarkov):
    """Language of a Markov chain: the hidden Markov chain whose state is the token.

    p(x) = initial[x_1] prod_i transition[x_{i-1}, x_i]

    Args:
        transition: Rows P(next token | token), shape ``[V, V]``; list, array or tensor.
        initial: P(first token), shape ``[V]``.

    Raises:
        ValueError: as for `HiddenMarkov`.

    Example:
        >>> chain = MarkovChain([[0.9, 0.1], [0.4, 0.6]], [0.5, 0.5])
        >>> x_t = torch.tensor([[0, 2, 1]])  # 2 is the mask
        >>> chain.log_prob(x_t).exp()  # 0.5 * (0.9 * 0.1 + 0.1 * 0.6)
        tensor([0.0750], dtype=torch.float64)
        >>> chain.log_marginals(x_t).exp()[0, 1]
        tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    def __init__(self, transition, initial):
        initial = check_probabilities("initial", initial, "V")
        super().__init__(transition, torch.eye(len(initial), dtype=torch.float64), initial)

    @classmethod
    def random(cls, vocab_size, num_successors, generator, smoothing=0.02) -> "MarkovChain":
        """A chain in which each token has `num_successors` likely successors; uniform start.

        Args:
            vocab_size: Tokens, >= 1.
            num_successors: 1..vocab_size; their weights are uniform in 0.2..1.2, then normalised.
            generator: The only source of randomness.
            smoothing: Mass spread uniformly over all tokens, 0..1.
        """
        size = check_count("vocab_size", vocab_size, 1)
        if check_count("num_successors", num_successors, 1) > size:
            raise ValueError(f"num_successors must be <= vocab_size {size}, got {num_successors}")
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing must be in 0..1, got {smoothing}")
        check_generator(generator)
        transition = _sparse_rows(size, size, num_successors, generator, smoothing)
        return cls(transition, [1 / size] * size)

    def entropy_nats(self, length: int) -> float:
        """Entropy of a whole sequence, nats: H(x_1) + sum_i sum_v P(x_i = v) H(transition[v])."""
        law, entropy = self.initial, torch.special.entr(self.initial).sum().item()
        for _ in range(check_count("length", length, 1) - 1):
            entropy += (law @ torch.special.entr(self.transition)).sum().item()
            law = law @ self.transition
        return entropy

    def _emit(self, states: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        return states


def _sparse_rows(rows, columns: int, likely: int, g: torch.Generator, smoothing: float) -> Tensor:
    """Rows with `likely` random entries, plus `smoothing`; for each row randperm, then rand."""
    table = torch.zeros(rows, columns, dtype=torch.float64)
    for row in table:
        chosen = torch.randperm(columns, generator=g, device=g.device)[:likely].cpu()
        weights = torch.rand(likely, dtype=torch.float64, generator=g, device=g.device).cpu()
        row[chosen] = weights + 0.2
    return (1 - smoothing) * table / table.sum(1, keepdim=True) + smoothing / columns


def _cdf(table: Tensor, g: torch.Generator) -> Tensor:
    """Cumulative rows that end in exactly 1, on the generator's device."""
    cdf = table.cumsum(1)
    return (cdf / cdf[:, -1:]).to(g.device)


def _draw(cdf: Tensor, rows: Tensor, g: torch.Generator) -> Tensor:
    """For each entry of `rows`, a draw from that row of `cdf`; never a cell of probability zero."""
    u = torch.rand(len(rows), 1, dtype=torch.float64, generator=g, device=g.device)
    return torch.searchsorted(cdf[rows], u, right=True)[:, 0]
