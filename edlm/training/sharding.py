"""A frozen denoiser over several devices: its blocks are sharded by FSDP2, as the launch's options say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import parse_flag_from_env, patch_environment
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from edlm.denoisers.base import Denoiser
from edlm.denoisers.network import HiddenDenoiser


@contextmanager
def replicated() -> Iterator[None]:
    """Within the block, an `Accelerator` replicates what it prepares, whatever the launch says of FSDP."""
    with patch_environment(accelerate_use_fsdp="false"):
        yield


def place(denoiser: Denoiser, device: torch.device) -> None:
    """Move a frozen denoiser to a device; where a launch of several processes says FSDP, shard its blocks, once.

    The processes of a machine hold a share of every block each, and gather one block at a time: in each forward pass,
    so that all of them must make as many. What is not a block (embeddings, output layer) is whole on each device.
    Of the options of an accelerate config, ``fsdp_version`` (2) and ``fsdp_reshard_after_forward`` have an effect.

    Raises:
        ValueError: FSDP of version 1, or a denoiser without blocks.
    """
    several = parse_flag_from_env("ACCELERATE_USE_FSDP") and PartialState().num_processes > 1
    if several and not any(isinstance(module, FSDPModule) for module in denoiser.modules()):
        _shard(denoiser, device)
    denoiser.to(device)


def _shard(denoiser: Denoiser, device: torch.device) -> None:
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise ValueError(f"fsdp_version must be 2, got {plugin.fsdp_version}")
    if not isinstance(denoiser, HiddenDenoiser):
        raise ValueError(f"FSDP needs a denoiser of known blocks, got a {type(denoiser).__name__}")
    mesh = _machine(device)
    with denoiser.same_weights():
        for block in denoiser.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)


def _machine(device: torch.device) -> DeviceMesh:
    """The processes of this machine."""
    total = PartialState().num_processes
    size = int(os.environ.get("LOCAL_WORLD_SIZE", total))
    return init_device_mesh(device.type, (total // size, size), mesh_dim_names=("machines", "devices"))["devices"]
