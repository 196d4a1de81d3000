"""Chains of slots with few states: sums over all paths, and draws of whole paths."""

import torch
from torch import Tensor

from edlm.energies.neighbours import Neighbours
from edlm.energies.proposal import inverse_cdf


def weights_of(links: Tensor) -> tuple[Tensor, Tensor]:
    """``exp(links - largest)`` of log-weights ``[num_linked, states, states]``, which are overwritten.

    Returns:
        The weights, and ``largest[num_linked]``.
    """
    largest = links.detach().flatten(1).amax(1)
    return links.sub_(largest[:, None, None]).exp_(), largest


def messages(weights: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
    """Summed weights of all that follows a slot in its chain, for each of its states.

    ``message_j(s) = sum_{s'} link_{j+1}(s, s') * message_{j+1}(s') / top_j``, 1 at the end of a chain

    Args:
        weights: Of the states ``s'`` of each linked slot after each state ``s`` of the slot before it, see
            `weights_of`; float64, ``[num_linked, states, states]``.
        neighbours: The chains.

    Returns:
        Messages, ``[num_slots, states]``; and what each is divided by, so that its largest entry is 1, ``[num_slots]``.

    Note:
        A loop over places in a chain, each a product of a matrix and a vector. Products of matrices, two by two, need
        no loop but ``states`` times the work: on one CPU core 3 to 35 times as long with 65 states.
    """
    depth, previous = neighbours.depth, neighbours.previous
    by_depth, counts = depth.argsort(stable=True), torch.bincount(depth)
    index, sizes = by_depth.argsort(), counts.tolist()
    place = index - (counts.cumsum(0) - counts)[depth]  # among the slots of its depth
    deeper = by_depth[sizes[0] :]
    links = weights[torch.searchsorted(neighbours.linked, deeper)].split(sizes[1:])
    places = place[previous[deeper]].split(sizes[1:])
    message, top = weights.new_ones(sizes[-1], weights.shape[-1]), weights.new_ones(sizes[-1], 1)
    found = [(message, top)]
    for level in range(len(sizes) - 2, -1, -1):
        message = (links[level] @ message[..., None])[..., 0]
        top = message.amax(1, keepdim=True)
        message = message / top
        if sizes[level] != sizes[level + 1]:  # other chains end here
            message = weights.new_ones(sizes[level], weights.shape[-1]).index_copy(0, places[level], message)
            top = weights.new_ones(sizes[level], 1).index_copy(0, places[level], top)
        found.append((message, top))
    messages, tops = (torch.cat(parts[::-1])[index] for parts in zip(*found, strict=True))
    return messages, tops[:, 0]


def draw_apart(log_weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the states of chains of one slot each, by log-weights ``[num_slots, states]``; as `draw_states`."""
    laws = log_weights.softmax(1)
    return inverse_cdf(laws, uniforms)[:, 0], laws


def draw_states(first: Tensor, links: Tensor, neighbours: Neighbours, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the states of all chains from the left, without a loop over slots.

    A draw makes each slot a map from the state on its left to its own; maps are composed two by two.

    Args:
        first: Weights of the states of slots that begin a chain, float64, ``[num_first, states]``.
        links: Those of the other slots given the state on the left, ``[num_linked, states, states]``.
        neighbours: The chains.
        uniforms: In [0, 1), float64, ``[num_slots, 1]``.

    Returns:
        States ``[num_slots]``, and the weights that each was drawn from, ``[num_slots, states]``.
    """
    size, linked, device = first.shape[1], neighbours.linked, first.device
    uniforms = uniforms.to(first)
    maps = torch.empty(len(uniforms), size, dtype=torch.long, device=device)
    maps[neighbours.first] = inverse_cdf(first, uniforms[neighbours.first])
    repeated = uniforms[linked, None].expand(-1, size, 1)
    maps[linked] = inverse_cdf(links, repeated)[..., 0]
    jump = torch.where(neighbours.previous < 0, torch.arange(len(maps), device=device), neighbours.previous)
    for _ in range(int(neighbours.depth.max()).bit_length()):
        maps, jump = maps.gather(1, maps[jump]), jump[jump]
    states = maps[:, 0]
    laws = first.new_empty(len(maps), size)
    laws[neighbours.first] = first
    laws[linked] = links[torch.arange(len(linked), device=device), states[neighbours.previous[linked]]]
    return states, laws
