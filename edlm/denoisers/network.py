"""Denoisers that run a network with weights, which give them an identity."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.denoisers.identity import DenoiserIdentity, weights_fingerprint
from edlm.denoisers.vocabulary import Vocabulary


class NetworkDenoiser(Denoiser):
    """A denoiser that runs a network.

    Args:
        network: The network.
        vocabulary: Its tokens.
        name: What the identity calls it; by default the checkpoint it was loaded from, else its class.
        traits: ``shift``, ``time_conditioned``, ``max_length`` and ``block_size`` of `Denoiser`.
    """

    def __init__(self, network: nn.Module, vocabulary: Vocabulary, *, name: str | None = None, **traits: Any):
        super().__init__(vocabulary, **traits)
        self.network = network
        config = getattr(network, "config", None)
        self.name = name or getattr(config, "name_or_path", None) or type(network).__name__
        self._fingerprint: tuple[object, str] = (None, "")

    @property
    def identity(self) -> DenoiserIdentity:
        """Computed again only after the weights were changed; a move or a cast of the module leaves it."""
        vocabulary = self.vocabulary
        return DenoiserIdentity(
            self.name, self._revision(), vocabulary.size, vocabulary.mask_token_id, vocabulary.fingerprint
        )

    def _revision(self) -> str:
        weights = self._weights()
        if self._fingerprint[0] != weights:
            self._fingerprint = (weights, weights_fingerprint(self.network))
        return self._fingerprint[1]

    def _weights(self) -> list[tuple[int, int]]:
        return [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in self.network.parameters()]

    @contextmanager
    def same_weights(self) -> Iterator[None]:
        """What moves, casts or shards the weights in the block leaves the identity as it is."""
        if any(weight.is_meta for weight in self.network.parameters()) or not self._weights():
            yield
            return
        revision = self._revision()
        yield
        self._fingerprint = (self._weights(), revision)

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        with self.same_weights():
            return super()._apply(*arguments, **options)


class HiddenDenoiser(NetworkDenoiser):
    """A denoiser on a transformers network, which keeps the states that enter its blocks."""

    @property
    def hidden_size(self) -> int:
        return self.network.config.hidden_size

    @property
    def num_blocks(self) -> int:
        return self.network.config.num_hidden_layers

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks: what a pass runs one after the other, and `num_blocks` long."""
        lists = (module for module in self.network.modules() if isinstance(module, nn.ModuleList))
        return next(modules for modules in lists if len(modules) == self.num_blocks)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.network.get_input_embeddings()(tokens)


def shifted(table: Tensor) -> Tensor:
    """Move ``[n, length, width]`` one position to the right; the first position keeps its own."""
    return torch.cat([table[:, :1], table[:, :-1]], 1)
