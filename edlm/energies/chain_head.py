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
        neighbours, (links, largest) = field.neighbours, weights_of(self._links(field))
        following, tops = messages(links, neighbours)
        scales = tops.log().index_add(0, neighbours.linked, largest)
        first = (field.unary[neighbours.first] + following[neighbours.first].log()).logsumexp(-1)
        return first.index_add(0, neighbours.chain, scales)

    def _log_q(self, field: Field, tokens: Tensor) -> Tensor:
        states = field.shortlist.states_of(tokens)
        terms = field.unary.gather(1, states)
        linked, size = field.neighbours.linked, field.shortlist.size
        if len(linked):
            source = field.neighbours.previous[linked]
            listed = (states[linked] < size) & (states[source] < size)
            left = self.left(tokens[source]) * field.gate[linked, None]
            pairs = (left * self.right(tokens[linked])).sum(-1)
            terms = terms.index_add(0, linked, precise(pairs * listed))
        log_z = self.log_partition(field)[:, None].expand(-1, terms.shape[1])
        return terms.index_add(0, field.neighbours.first, -log_z)

    def _draw(self, field: Field, others: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        neighbours, (links, _) = field.neighbours, weights_of(self._links(field))
        following, _ = messages(links, neighbours)
        first = field.unary[neighbours.first].softmax(1) * following[neighbours.first]
        return draw_states(first, links.mul_(following[neighbours.linked, None]), neighbours, uniforms)
