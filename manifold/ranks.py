"""The processes of one training, as torchrun starts them, and what crosses between them.

A loss over the whole batch is computed by every process in full, and is differentiated by each
with respect to its own features alone. DistributedDataParallel then takes the mean over the W
processes, so the gradient of what crosses is multiplied by W: the mean is the gradient of the whole
batch's loss, and nothing has to be sent back.
"""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from manifold.errors import UserError

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Ranks:
    """This process among the ``count`` of its training."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, local: Tensor) -> Tensor:
        """Return (W·B, ...) of all ranks' (B, ...), in rank order; the gradient is the module's.

        All ranks must hold equally many.
        """
        if self.count == 1:
            return local
        parts = [torch.empty_like(local) for _ in range(self.count)]
        dist.all_gather(parts, local.detach().contiguous())
        parts[self.rank] = _ScaledGradient.apply(local, self.count)
        return torch.cat(parts)

    def sum(self, local: Tensor) -> Tensor:
        """Return the sum over the ranks of a tensor; the gradient is the module's."""
        if self.count == 1:
            return local
        return _Sum.apply(local, self.count)


ALONE = Ranks()


def is_first() -> bool:
    """Whether this process is alone or the first of its training."""
    return not dist.is_initialized() or dist.get_rank() == 0


def from_first(value: Any) -> Any:
    """The first rank's value, for all of them; others wait for it."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]


def start(device: str) -> tuple[Ranks, torch.device]:
    """Join the processes that torchrun has started, each with a GPU of its own.

    Without torchrun (no WORLD_SIZE in the environment) this process is alone.

    Raises:
        UserError: the device is not there.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    kind = torch.device(device).type
    if kind == "cuda":
        number = int(os.environ.get("LOCAL_RANK", "0"))
        found = torch.cuda.device_count()
        if number >= found:
            raise UserError(
                f"machine.device is {device!r}, and process {number + 1} of this node finds "
                f"{found} GPU(s); set machine.processes to their number, or machine.device to cpu"
            )
        if count > 1:
            device = f"cuda:{number}"
            torch.cuda.set_device(number)
    if count == 1:
        return ALONE, torch.device(device)
    _die_with_torchrun()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    return Ranks(dist.get_rank(), count), torch.device(device)


def _die_with_torchrun() -> None:
    """Let the kernel kill this process when torchrun is gone, however it went.

    torchrun gives each process a session of its own: one that is killed itself would leave them
    training, beside those of the job that is started again.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _ScaledGradient(torch.autograd.Function):
    """The identity, with the gradient times ``factor``."""

    @staticmethod
    def forward(ctx, values: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class _Sum(torch.autograd.Function):
    """The sum over the ranks, with this rank's part of the gradient times ``factor``."""

    @staticmethod
    def forward(ctx, values: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
