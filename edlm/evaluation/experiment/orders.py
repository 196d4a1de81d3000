"""Reveal orders of a table: those of the sampler, each also in blocks of a length of its own."""

import re
from typing import Any

from edlm.diffusion.plan import named_order

_IN_BLOCKS = " in blocks of "


def options_of_order(name: str) -> dict[str, Any]:
    """Options of the sampler that an order of a table stands for: ``ORDER`` alone, or ``ORDER in blocks of N``.

    Without blocks the block length is the denoiser's own, else the whole sequence. The number of steps of a cell is
    that of a block.

    Raises:
        ValueError: there is no such order, or N is not a number of tokens.

    Example:
        >>> options_of_order("entropy_bounded(0.5) in blocks of 32")
        {'order': 'entropy_bounded(0.5)', 'block_length': 32}
        >>> options_of_order("bisecting")
        {'order': 'bisecting', 'block_length': None}
    """
    order, in_blocks, length = name.partition(_IN_BLOCKS)
    named_order(order)
    if in_blocks and not (length.isdecimal() and int(length)):
        raise ValueError(f"blocks must be of a number of tokens, as in '{order}{_IN_BLOCKS}32', got {name!r}")
    return {"order": order, "block_length": int(length) if in_blocks else None}


def line_of_order(name: str) -> str:
    """An order without its threshold: orders that differ in it alone are points of one line over passes.

    Example:
        >>> line_of_order("entropy_bounded(0.5) in blocks of 32")
        'entropy_bounded in blocks of 32'
    """
    return re.sub(r"\(.*\)", "", name)
