"""Warnings where an energy's training does not fit what it is used for, each once."""

import warnings
from weakref import WeakKeyDictionary

from edlm.energies.base import Energy

_said: WeakKeyDictionary[Energy, set[str]] = WeakKeyDictionary()


def warn_of_order(energy: Energy, order: str) -> None:
    """Say that an energy was trained on other orders, if so."""
    trained = energy.trained_orders
    if trained is not None and order not in trained:
        *others, last = trained
        orders = f"orders {', '.join(others)} and {last}" if others else f"order {last}"
        message = f"this {type(energy).__name__} was trained on {orders}, not on {order}"
        _warn(energy, f"{message}: it may gain less than it could")


def warn_left_out(energy: Energy, order: str, num_steps: int) -> None:
    """Say that an energy is not used, since it was measured not to gain."""
    setting = f"in {num_steps} passes of order {order}"
    _warn(energy, f"this {type(energy).__name__} does not gain {setting}: left out; window=(0, 1) uses it")


def warn_of_one_candidate(energy: Energy) -> None:
    """Say that an energy is not run, since it has nothing to choose from."""
    message = f"this {type(energy).__name__} is not run: num_candidates=1 leaves no choice"
    _warn(energy, f"{message}; with on_impossible='redraw' or 'keep' it would rule candidates out")


def _warn(energy: Energy, message: str) -> None:
    said = _said.setdefault(energy, set())
    if message not in said:
        said.add(message)
        warnings.warn(message, UserWarning, stacklevel=7)
