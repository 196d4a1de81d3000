"""Chains of slots with few states: sums over all paths, and draws of whole paths."""

import torch
from torch import Tensor

from edlm.energies.neighbours import Neighbours
from edlm.energies.proposal import draw_categorical


def messages(links: Tensor, neighbours: Neighbours) -> Tensor:
    """Log of the summed weights of all that follows a slot in its chain, for each of its states, nats.

    ``message_j(s) = log sum_{s'} exp(link_{j+1}(s, s') + message_{j+1}(s'))``, 0 at the end of a chain

    Args:
        links: Log-weights of the states ``s'`` of each linked slot after each state ``s`` of the slot before it,
            ``[num_linked, states, states]``.
        neighbours: The chains.

    Returns:
        Shape ``[num_slots, states]``.
    """
    depth, previous = neighbours.depth, neighbours.previous
    by_depth, counts = depth.argsort(stable=True), torch.bincount(depth)
    levels = by_depth.split(counts.tolist())
    index = by_depth.argsort()
    place = index - (counts.cumsum(0) - counts)[depth]  # in its level
    link = torch.full_like(previous, -1)
    link[neighbours.linked] = torch.arange(len(neighbours.linked), device=link.device)
    message, found = links.new_zeros(len(levels[-1]), links.shape[-1]), []
    for at in range(len(levels) - 1, 0, -1):
        found.append(message)
        level = levels[at]
        passed = (links[link[level]] + message[:, None]).logsumexp(-1)
        message = links.new_zeros(len(levels[at - 1]), links.shape[-1]).index_copy(0, place[previous[level]], passed)
    return torch.cat([message, *reversed(found)])[index]


def draw_states(first: Tensor, links: Tensor, neighbours: Neighbours, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the states of all chains from the left, without a loop over slots.

    A draw makes each slot a map from the state on its left to its own; maps are composed two by two.

    Args:
        first: Log-weights of the states of slots that begin a chain, ``[num_first, states]``.
        links: Those of the other slots given the state on the left, ``[num_linked, states, states]``.
        neighbours: The chains.
        uniforms: In [0, 1), float64, ``[num_slots, 1]``.

    Returns:
        States ``[num_slots]``, and the log-weights that each was drawn from, ``[num_slots, states]``.
    """
    size, linked, device = first.shape[1], neighbours.linked, first.device
    maps = torch.empty(len(uniforms), size, dtype=torch.long, device=device)
    maps[neighbours.first] = draw_categorical(first, uniforms[neighbours.first.cpu()])
    repeated = uniforms[linked.cpu()].repeat_interleave(size, 0)
    maps[linked] = draw_categorical(links.flatten(0, 1), repeated).view(-1, size)
    jump = torch.where(neighbours.previous < 0, torch.arange(len(maps), device=device), neighbours.previous)
    for _ in range(int(neighbours.depth.max()).bit_length()):
        maps, jump = maps.gather(1, maps[jump]), jump[jump]
    states = maps[:, 0]
    laws = first.new_empty(len(maps), size)
    laws[neighbours.first] = first
    laws[linked] = links[torch.arange(len(linked), device=device), states[neighbours.previous[linked]]]
    return states, laws
