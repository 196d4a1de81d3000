"""A head that is normalised token by token, each given its left neighbour."""

from torch import Tensor
from torch.nn import functional as F

from edlm.energies.chains import draw_states, weights_of
from edlm.energies.neighbour_head import Field, NeighbourHead
from edlm.numerics import precise


class MarkovHead(NeighbourHead):
    """Corrections to each token of a step given its left neighbour, for almost nothing beside a denoiser pass.

    ``q(x_j | x_t, x_{j-1}) = softmax(log p_theta(. | x_t) + u_j + b_j(x_{j-1}, .))``, so ``Z = 1``; `NeighbourHead`
    has the potentials. ``q`` equals ``p_theta`` before training.

    A temperature applies to marginals and potentials alike; ``top_k`` and ``top_p`` cut the marginals.

    Args:
        settings: Its shape. `from_denoiser` makes a head that fits.
    """

    def _log_q(self, field: Field, tokens: Tensor) -> Tensor:
        logits = field.unary[:, None].expand(-1, tokens.shape[1], -1)
        linked = field.neighbours.linked
        if len(linked):
            pairs = self._pairs(field, linked, tokens[field.neighbours.previous[linked]])
            logits = logits.index_add(0, linked, precise(F.pad(pairs, (0, 1))))
        states = field.shortlist.states_of(tokens)
        return logits.log_softmax(-1).gather(2, states[..., None])[..., 0]

    def _draw(self, field: Field, others: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        links, _ = weights_of(self._links(field, others))
        return draw_states(field.unary[field.neighbours.first].softmax(1), links, field.neighbours, uniforms)
