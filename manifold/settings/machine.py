"""The settings of where and how it runs; none of it changes a result beyond rounding."""

from typing import Literal

from manifold.settings.section import Count, NotNegative, Processes, Section, Workers


class CohortSettings(Section):
    """Methods that are trained together."""

    size: Count | None
    """Methods in one job; null: all of them."""
    parallel_jobs: Count
    """Jobs that run at once: the last seeds, too few for all of them, are trained in parts."""
    gradient_steps: Count | None
    """Steps of an epoch between looks at each term's share of the gradient; null: no looks."""


class Machine(Section):
    """Devices, processes and memory."""

    device: Literal["cpu", "cuda"]
    """Where networks are."""
    nodes: Processes
    """Machines of one training."""
    processes: Processes
    """On a node, each with a GPU of its own where the device is cuda."""
    jobs_per_gpu: Processes
    """Jobs that share one GPU."""
    gres: str | None
    """Slurm's name of a GPU where the cluster knows --gres alone, gpu or gpu:TYPE; null: --gpus."""
    shards_per_pass: Count | None
    """null: all of a process; fewer: gradient accumulation."""
    compile: str | None
    """A backend of torch.compile."""
    channels_last: bool
    """Memory layout of convolutions."""
    fused_optimizer: bool
    """The optimizer's fused kernels."""
    threads: Processes
    """CPU threads of a process."""
    workers: Workers
    """Processes that load images, for each process."""
    evaluation_batch_size: Count
    """Images of a pass at evaluation."""
    checkpoint_seconds: NotNegative
    """At most this much work is lost by a kill."""
