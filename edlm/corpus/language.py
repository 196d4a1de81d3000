"""The interface of synthetic languages, and the input checks that they share."""

import operator
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Language(ABC):
    """A law of token sequences whose probabilities are known exactly, in float64, nats.

    Token ids are ``0..vocab_size - 1``; ``mask_token_id = vocab_size`` marks a position as unknown.

    Attributes:
        vocab_size, mask_token_id: As above.
        length: Tokens of every sequence; None where there is a law for any length.
        num_given: Tokens of a prompt, by default.
    """

    vocab_size: int
    mask_token_id: int
    length: int | None = None
    num_given: int = 0

    @property
    def symbols(self) -> tuple[str, ...]:
        """How each token is written."""
        return tuple(map(str, range(self.vocab_size)))

    def given(self, n: int, length: int, num_given: int, generator: torch.Generator) -> Tensor:
        """Places of prompts: by default the first tokens.

        Args:
            n: Number of sequences.
            length: Tokens of each.
            num_given: Tokens of a prompt, 0..length.
            generator: The only source of randomness, where there is any.

        Returns:
            True where a token is given, bool, shape ``[n, length]``.
        """
        return (torch.arange(length, device=generator.device) < num_given).expand(n, -1)

    @abstractmethod
    def sample(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw exact, independent sequences, on the generator's device.

        Args:
            n: Number of sequences, >= 0.
            length: Tokens per sequence, >= 1.
            generator: The only source of randomness.

        Returns:
            int64, shape ``[n, length]``.
        """

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log probability of each row, nats; positions that hold the mask are summed out exactly.

        Args:
            x: Integers, shape ``[batch, length]``, ids in ``0..mask_token_id``.

        Returns:
            float64, shape ``[batch]``; ``-inf`` where impossible.

        Raises:
            ValueError: wrong ids or shape.
        """

    @abstractmethod
    def log_marginals(self, x_t: Tensor) -> Tensor:
        """Exact posterior log p(x^i = v | observed tokens) of every position, nats.

        Args:
            x_t: Integers, shape ``[batch, length]``, ids in ``0..mask_token_id``.

        Returns:
            float64, shape ``[batch, length, vocab_size]``; 0 and ``-inf`` at observed positions.

        Raises:
            ValueError: wrong ids or shape, or a row whose observed tokens have probability zero.
        """

    @abstractmethod
    def is_valid(self, x: Tensor) -> Tensor:
        """Whether each fully observed row has positive probability, however small.

        Args:
            x: Integers, shape ``[batch, length]``, ids in ``0..vocab_size - 1``.

        Returns:
            bool, shape ``[batch]``.

        Raises:
            ValueError: a row holds a mask token, wrong ids or shape.
        """


def check_count(name: str, value: int, minimum: int) -> int:
    """`value` as an int, if it is one and at least `minimum`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}") from None
    if count < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {count}")
    return count


def check_generator(generator: torch.Generator) -> None:
    """Raise unless it is a generator."""
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, got {type(generator).__name__}")


def check_draw(n: int, length: int, generator: torch.Generator) -> tuple[int, int]:
    """The checked sizes of a call of `sample`."""
    check_generator(generator)
    return check_count("n", n, 0), check_count("length", length, 1)


def check_rows(bad: Tensor, rule: str) -> None:
    """Raise `rule`, and the numbers of the rows that are True in `bad` (eight at most)."""
    if bad.any():
        rows = bad.nonzero()[:, 0].tolist()
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        raise ValueError(f"{rule} in rows {rows[:8]}{more}")


def check_tokens(x: Tensor, mask: int, name: str = "x", observed: bool = False) -> Tensor:
    """`x` as int64 ``[batch, length]``, ids in ``0..mask``; `observed` forbids the mask itself."""
    kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise ValueError(f"{name} must be a tensor of integers, got {kind}")
    if x.dim() != 2 or x.shape[1] == 0:
        rule = f"{name} must have shape [batch, length] with length >= 1"
        raise ValueError(f"{rule}, got {list(x.shape)}")
    outside = x[(x < 0) | (x > mask)]
    if len(outside):
        rule = f"{name} must hold ids in 0..{mask} ({mask} is the mask token)"
        raise ValueError(f"{rule}, got {outside[0].item()}")
    if observed:
        check_rows((x == mask).any(1), f"{name} must have no mask token ({mask}), got one")
    return x.long()


def check_probabilities(name: str, values, *shape: int | str) -> Tensor:
    """`values` as float64, its last axis normalised; a letter in `shape` is any size >= 1."""
    table = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    pairs = zip(table.shape, shape, strict=False)
    wanted = [got or 1 if isinstance(want, str) else want for got, want in pairs]
    if table.dim() != len(shape) or list(table.shape) != wanted:
        rule = f"{name} must have shape [{', '.join(map(str, shape))}]"
        raise ValueError(f"{rule}, got {list(table.shape)}")
    wrong = ~(table.isfinite() & (table >= 0))
    if wrong.any():
        got = f"{table[wrong][0].item()} at {wrong.nonzero()[0].tolist()}"
        raise ValueError(f"{name} must be finite and non-negative, got {got}")
    sums = table.sum(-1, keepdim=True)
    off = ((sums - 1).abs() > 1e-6).reshape(-1)
    worst = sums.reshape(-1)[(sums - 1).abs().argmax()].item()
    check_rows(off, f"{name} must sum to 1 within 1e-6, got {worst:.8g} at worst")
    return table / sums
