"""The interface of a family of published denoisers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.rules import check, check_least


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded.

    Attributes:
        tokenizer: A tokenizer or its name; by default the checkpoint's own, where it has one.
        mask_token_id: By default the family's, or the tokenizer's.
        dtype: Of the weights; or its name, such as "bfloat16".
        trust_remote_code: Run the Python code that comes with the checkpoint.
        block_size: Tokens that see each other, of families that come with several.
        shift: Whether output i - 1 predicts token i, of families that do not know it.

    Raises:
        ValueError: ``dtype`` is no floating-point type, or a size is no size.
    """

    tokenizer: Any = None
    mask_token_id: int | None = None
    dtype: torch.dtype | str = torch.float32
    trust_remote_code: bool = False
    block_size: int | None = None
    shift: bool | None = None

    def __post_init__(self) -> None:
        check_least(1, block_size=check("block_size", self.block_size, int | None))
        check("shift", self.shift, bool | None)
        dtype = getattr(torch, self.dtype, None) if isinstance(self.dtype, str) else self.dtype
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, such as bfloat16, got {self.dtype}")
        object.__setattr__(self, "dtype", dtype)


@dataclass(frozen=True)
class Family:
    """One way in which denoisers are published.

    Attributes:
        name: Its name in ``family=``.
        recognizes: Whether a checkpoint is of this family, from its files, configuration and key names.
        load: The denoiser of a checkpoint, on the CPU; runs no code of the checkpoint unless the options allow it.
        wrap: ``wrap(module, tokenizer, mask_token_id=None, **options)``: a denoiser of a module that is already
            built, called as the family's own code calls it.
        has_own_code: Whether a checkpoint's own code may build the module instead of ``load``, if that is allowed.
        options: Which of ``block_size`` and ``shift`` it takes.
    """

    name: str
    recognizes: Callable[[Checkpoint], bool]
    load: Callable[[Checkpoint, LoadOptions], Denoiser]
    wrap: Callable[..., Denoiser]
    has_own_code: bool = False
    options: frozenset[str] = frozenset()

    def layout(self, options: LoadOptions) -> dict[str, Any]:
        """Those of ``block_size`` and ``shift`` that are given; ValueError for one that the family does not take."""
        given = {name: getattr(options, name) for name in ("block_size", "shift")}
        given = {name: value for name, value in given.items() if value is not None}
        for name in given.keys() - self.options:
            raise ValueError(f"family {self.name!r} takes no {name}: it is known, got {given[name]}")
        return given


def setting_of(config: Any, name: str) -> Any:
    """A setting of a configuration, a dictionary or an object; None without."""
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)


def unwrap_logits(output: Any) -> torch.Tensor:
    """Logits in the output of a module: an object with ``logits``, a tuple, or the tensor itself."""
    if isinstance(output, torch.Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]
