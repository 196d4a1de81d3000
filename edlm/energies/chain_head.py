"""A head that is normalised over all tokens of a step: a linear-chain random field."""

from torch import Tensor

from edlm.energies.chains import draw_states, messages, weights_of
from edlm.energies.neighbour_head import Field, NeighbourHead
from edlm.numerics import precise


class ChainHead(NeighbourHead):
    """A law of all tokens of a step together, for almost nothing beside a denoiser pass.

    ``q(x_R) = p_theta(x_R | x_t) exp(sum_j u_j(x_j) + b_j(x_{j-1}, x_j)) / Z``; `NeighbourHead` has the potentials,
    where ``b_j`` is 0 if either token is not among the likeliest of its position. So ``Z`` over the whole vocabulary
    is a sum over chains of few states, and exact. ``q`` equals ``p_theta`` before training.

    A temperature applies to marginals and potentials alike (``q ** (1 / temperature)``, normalised); ``top_k`` and
    ``top_p`` cut the marginals. Groups of a decision by candidates are normalised one by one.

    Args:
        settings: Its shape. `from_denoiser` makes a head that fits.

    References:
        Sun et al. 2019, arXiv:1910.11555 (low-rank potentials, for non-autoregressive translation).
    """

    def log_partition(self, field: Field) -> Tensor:
        """``log Z`` of each chain, float64, ``[num_chains]``."""
        following, scales = messages(*weights_of(self._links(field)), field.neighbours)
        first = field.neighbours.first
        return (field.unary[first] + following[first].log()).logsumexp(-1) + scales[first]

    def _log_q(self, field: Field, tokens: Tensor) -> Tensor:
        states = field.shortlist.states_of(tokens)
        terms = field.unary.gather(1, states) + field.shortlist.log_share(tokens, states)
        linked, size = field.neighbours.linked, field.shortlist.size
        if len(linked):
            source = field.neighbours.previous[linked]
            listed = (states[linked] < size) & (states[source] < size)
            index = states[linked].clamp(max=size - 1)[..., None].expand(-1, -1, self.shape.rank)
            pairs = (self.left(tokens[source]) * field.right[linked].gather(1, index)).sum(-1)
            terms = terms.index_add(0, linked, precise(pairs * listed))
        return terms.index_add(
            0, field.neighbours.first, -self.log_partition(field)[:, None].expand(-1, terms.shape[1])
        )

    def _draw(self, field: Field, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        links, largest = weights_of(self._links(field))
        following, _ = messages(links, largest, field.neighbours)
        links = links * following[field.neighbours.linked, None]
        first = field.unary[field.neighbours.first].softmax(1) * following[field.neighbours.first]
        states, laws = draw_states(first, links, field.neighbours, uniforms[:, :1])
        return states, field.shortlist.draw_rest(uniforms[:, 1:]), laws
