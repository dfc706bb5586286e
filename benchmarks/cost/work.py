"""What a step computes, how fast the machine multiplies, and in which operators the time goes."""

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost.losses import timed


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in some work.

    Source: ``torch.utils.flop_counter``; a product of (m, k) and (k, n) is 2·m·k·n.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # of the CPU's own kernels it counts none
        work()
    return counter.get_total_flops()


def seconds_of_a_product(side: int, device: torch.device) -> float:
    """Of two float32 matrices (side, side), which is 2·side³ operations."""
    matrix = torch.ones(side, side, device=device)
    return timed(lambda: matrix @ matrix, device)


def seconds_of_operators(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Time inside each operator, without those that it calls; the longest first."""
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as found:
        work()
    key = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    # A kernel stands there once more beside the operator that has started it.
    operators = [each for each in found.key_averages() if each.device_type == DeviceType.CPU]
    seconds = {each.key: getattr(each, key) / 1e6 for each in operators}
    return {name: s for name, s in sorted(seconds.items(), key=lambda own: -own[1]) if s}
