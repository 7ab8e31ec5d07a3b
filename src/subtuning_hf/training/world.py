"""
A process of a launch that trains by itself for a while.

Under torchrun or `accelerate launch` every Trainer becomes one part of a distributed training. A search wants the
opposite: each process trains whole candidates, and only the final training is shared. So while a search runs, the
launcher's variables and accelerate's record of them are put aside, and put back afterwards. The process group stays as
it is. Knows environments and accelerate; nothing of searches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainingArguments

from ..errors import ArgumentsError

# What makes a library believe that it is one of many, or that a model is to be spread over many.
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE",
          "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_FSDP",
          "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG",
          "ACCELERATE_CPU_AFFINITY")  # fmt: skip
_PREFIXES = ("TORCHELASTIC_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
_DEVICE = "ACCELERATE_TORCH_DEVICE"
_STATES = (AcceleratorState, PartialState, GradientState)


@contextmanager
def alone(args: TrainingArguments) -> Iterator[None]:
    """
    Let Trainers made inside be those of a single process, on this process' own device.

    Without a launcher nothing is changed. Arguments and Accelerators made outside are as they were afterwards.
    `torch.distributed.is_initialized()` stays true: code inside must not start collectives by itself.

    Args:
        args ([`~transformers.TrainingArguments`]): Made under the launcher; inside, it too reports one process.
    """
    # A launch of one process counts as distributed too: its Trainers would wrap candidates in DDP.
    if getattr(args.distributed_state, "distributed_type", DistributedType.NO) == DistributedType.NO:
        yield
        return
    device, cpu = args.device, args.device.type == "cpu"
    hidden = {name: value for name, value in os.environ.items() if name in _NAMES or name.startswith(_PREFIXES)}
    before = os.environ.get(_DEVICE)
    for name in hidden:
        del os.environ[name]
    os.environ[_DEVICE] = str(device)
    # All instances share one dict for each class: refilled in place, those made outside never notice.
    kept = [(kind._shared_state, dict(kind._shared_state)) for kind in _STATES]
    try:
        for state, _ in kept:
            state.clear()
        PartialState(cpu=cpu)
        yield
    finally:
        for state, content in kept:
            state.clear()
            state.update(content)
        os.environ.update(hidden)
        if before is None:
            del os.environ[_DEVICE]
        else:
            os.environ[_DEVICE] = before


def join_restarted(args: TrainingArguments) -> None:
    """
    Let the processes of a restarted launch find each other, and not their predecessors.

    torchrun keeps one store over all attempts (seen in torch 2.15), and the addresses that killed processes left in it
    make the new ones fail or hang in `init_process_group`, or not, depending on who reads first. Accelerate takes a
    process group that exists, so this makes one with keys of its own; nothing is done in a first attempt. Remove when
    torch's env:// rendezvous tells attempts apart.

    Args:
        args ([`~transformers.TrainingArguments`]): Not yet set up; says which backend is wanted.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or not dist.is_available() or dist.is_initialized() or args.deepspeed:
        return
    accelerator = None if args.use_cpu else torch.accelerator.current_accelerator()
    device = "cpu" if accelerator is None else accelerator.type
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    timeout = timedelta(seconds=args.ddp_timeout)
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        is_master=rank == 0 and not agent,
        timeout=timeout,
        multi_tenant=True,
    )
    if accelerator is not None:
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        backend=args.ddp_backend or dist.get_default_backend_for_device(device),
        store=dist.PrefixStore(f"attempt-{attempt}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )


def check_whole(model: nn.Module) -> None:
    """
    Refuse a base whose parameters are spread over processes: a process could not train a candidate by itself.

    Raises: [`ArgumentsError`]
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id") or type(parameter).__name__ == "DTensor":
            raise ArgumentsError(
                f"'{name}' is spread over several processes (ZeRO-3, FSDP2 or tensor parallelism), but in a search "
                "each process trains whole candidates. Run the search under a launch without it, then "
                "train(blocks=[...]) with the blocks that were found under this one."
            )


def set_threads(count: int) -> None:
    """CPU threads of torch: scores differ in their last bits with their number."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
