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
    index, sizes = by_depth.argsort(), counts.tolist()
    place = index - (counts.cumsum(0) - counts)[depth]  # in its level
    link = torch.full_like(previous, -1)
    link[neighbours.linked] = torch.arange(len(neighbours.linked), device=link.device)
    deeper = by_depth[sizes[0] :]
    links, places = links[link[deeper]], place[previous[deeper]].split(sizes[1:])
    largest = links.detach().amax(-1)
    weights, shifts = (links - largest[..., None]).exp().split(sizes[1:]), largest.split(sizes[1:])
    message, found = links.new_zeros(sizes[-1], links.shape[-1]), []
    for level in range(len(sizes) - 2, -1, -1):
        found.append(message)
        shift = message.detach().amax(1, keepdim=True)
        summed = (weights[level] @ (message - shift).exp()[..., None])[..., 0].log()
        message = summed + (shifts[level] + shift)
        if sizes[level] != sizes[level + 1]:
            ended = links.new_zeros(sizes[level], links.shape[-1])
            message = ended.index_copy(0, places[level], message)
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
