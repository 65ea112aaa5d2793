"""Several processes train one model, each on its slice of every batch: one all-reduce of one flat gradient a step.

Started by ``torchrun``, which sets RANK, LOCAL_RANK, WORLD_SIZE and where the processes meet. NCCL between CUDA
devices, gloo between processors.

The models are small: all gradients together are a few megabytes, less than one bucket of PyTorch's
DistributedDataParallel, whose overlap of buckets with the backward pass has nothing to overlap here. So the gradients
live in one flat buffer, with the loss at its end, and are summed in one call, which a CUDA graph can hold. Each process
divides by the weight of the whole step, so that the sum is the gradient that one process would have. Every process then
takes the same optimiser step; only the first writes, validates and chooses.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanomd.base.errors import InputError, NanomdError

if TYPE_CHECKING:
    from torch import Tensor

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ProcessLostError(NanomdError, RuntimeError):
    """Another process of the training ended before it was done."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a training.

    Parameters
    ----------
    rank, size : int
        This process, from 0, and how many there are.
    local_rank : int
        This process among those of its machine: the number of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def rows(self, batch_size: int) -> tuple[int, int]:
        """Return (first window, number of windows) of this process in a step of `batch_size`.

        Raises
        ------
        InputError
            If there are fewer windows than processes.
        """
        if batch_size < self.size:
            raise InputError(
                f"batch_size must be at least {self.size}, one window a process, got {batch_size}; "
                "raise it or start fewer processes"
            )
        begin, end = (batch_size * r // self.size for r in (self.rank, self.rank + 1))
        return begin, end - begin

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, the same bits in each."""
        if self.size > 1:
            import torch.distributed as dist

            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                raise ProcessLostError(
                    f"process {self.rank} of {self.size} lost another one ({error}): checkpoints are kept, "
                    "go on with --resume"
                ) from error

    def share(self, tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.size > 1:
            import torch
            import torch.distributed as dist

            with torch.no_grad():
                for tensor in tensors.values() if isinstance(tensors, Mapping) else tensors:
                    if tensor.device.type == "cpu" and dist.get_backend() == "nccl":
                        on_device = tensor.cuda()
                        dist.broadcast(on_device, 0)
                        tensor.copy_(on_device)
                    else:
                        dist.broadcast(tensor, 0)

    def agree(self, value: float) -> float:
        """Return the first process's value in every process."""
        if self.size == 1:
            return value
        import torch

        tensor = torch.tensor([value], dtype=torch.float64)
        self.share([tensor])
        return float(tensor)


def started_together() -> bool:
    """Whether ``torchrun`` started this process with others."""
    return all(name in os.environ for name in _VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def join(device: str = "auto") -> World:
    """Meet the other processes that ``torchrun`` started; alone, nothing happens and torch is not imported.

    Parameters
    ----------
    device : str
        ``"cpu"`` has them talk through gloo also where there are CUDA devices.

    Raises
    ------
    InputError
        If a machine has fewer CUDA devices than processes.
    """
    if not started_together():
        return World()
    import torch
    import torch.distributed as dist

    rank, local_rank, size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if not dist.is_initialized():
        on_cuda = device != "cpu" and torch.cuda.is_available()
        if on_cuda:
            if local_rank >= torch.cuda.device_count():
                raise InputError(
                    f"--nproc-per-node must be at most {torch.cuda.device_count()}, the CUDA devices of this machine, "
                    f"but process {local_rank} (from 0) was started; start fewer, or use device 'cpu'"
                )
            torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl" if on_cuda else "gloo", rank=rank, world_size=size)
        atexit.register(_leave)
    return World(rank, size, local_rank)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
