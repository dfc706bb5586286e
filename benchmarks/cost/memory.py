"""The most memory that a piece of work takes, in a process of its own."""

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from manifold.errors import UserError

# Each peak is that of a process of its own, which has imported torch already.
FORKS = multiprocessing.get_context("forkserver")


def peak_bytes(work: Callable[..., Iterator[None]], *arguments: Any, device: torch.device) -> int:
    """The peak of ``work(*arguments)``, beyond what stood when it first yielded.

    Args:
        work: a generator function of a module, which yields once, when it is prepared.

    Raises:
        UserError: the process ended before its end, for want of memory as a rule.
    """
    if device.type == "cuda":
        steps = work(*arguments)
        next(steps)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        next(steps, None)
        return torch.cuda.max_memory_allocated(device) - before
    FORKS.set_forkserver_preload([work.__module__])
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_send_peak, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        process.join()
        raise UserError(
            f"a process that measures memory ({work.__name__}) ended with exit code "
            f"{process.exitcode}; -9 is for want of memory: lower cost.steps.memory_images, "
            "or the numbers of cost.losses.batches"
        ) from None
    process.join()
    return found


def _send_peak(sender: Connection, work: Callable[..., Iterator[None]], arguments: tuple) -> None:
    torch.set_num_threads(1)
    steps = work(*arguments)
    next(steps)
    before = _peak_resident()
    next(steps, None)
    sender.send(_peak_resident() - before)


def _peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
