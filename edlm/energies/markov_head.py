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
            left = self.left(tokens[field.neighbours.previous[linked]])
            pairs = precise(F.pad(left @ field.right[linked].transpose(1, 2), (0, 1)))
            logits = logits.index_add(0, linked, pairs)
        states = field.shortlist.states_of(tokens)
        log_q = logits.log_softmax(-1).gather(2, states[..., None])[..., 0]
        return log_q + field.shortlist.log_share(tokens, states)

    def _draw(self, field: Field, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        others = field.shortlist.draw_rest(uniforms[:, 1:])  # first, since the next token may depend on them
        first, (links, _) = field.unary[field.neighbours.first], weights_of(self._links(field, others))
        states, laws = draw_states(first.softmax(1), links, field.neighbours, uniforms[:, :1])
        return states, others, laws
