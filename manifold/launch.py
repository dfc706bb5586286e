"""How a job's processes are started, and which GPUs they are given.

A rule calls ``<launcher> -m manifold.train …``. With one process and no GPU the launcher is
``python``. Else it is ``python -m manifold.launch``, which starts torchrun where there are several
processes. It waits for free GPUs, holds each by a lock as long as the job lives (a killed job frees
them), and shows the job those alone by ``CUDA_VISIBLE_DEVICES``. Under Slurm, which hands out the
GPUs itself, nothing is locked. With several nodes, ``srun`` starts it on each.
"""

import argparse
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from manifold.config import Machine
from manifold.errors import UserError

LOCKS = Path(tempfile.gettempdir())
RENDEZVOUS_PORT = 29400
SECONDS_BETWEEN_TRIES = 5.0


def launcher(machine: Machine, processes: int | None = None) -> str:
    """The words that a rule puts before ``-m module``.

    Args:
        processes: in place of the machine's, on one node, for jobs that do not train.
    """
    nodes = machine.nodes if processes is None else 1
    processes = machine.processes if processes is None else processes
    has_gpus = machine.device.startswith("cuda")
    if nodes == processes == 1 and not has_gpus:
        return "python"
    words = f"python -m manifold.launch --nodes {nodes} --processes {processes}"
    if has_gpus:
        words += f" --gpus {processes} --jobs-per-gpu {machine.jobs_per_gpu}"
    if nodes > 1:
        words = (
            f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 "
            f"--gpus-per-node={processes if has_gpus else 0} "
            f"--cpus-per-task={cpus(machine)} {words}"
        )
    return f"{words} --"


def cpus(machine: Machine, processes: int | None = None) -> int:
    """Snakemake's threads of a job on one node: each process has its own, or its workers."""
    return (processes or machine.processes) * max(machine.threads, machine.workers)


def resources(machine: Machine, processes: int | None = None) -> dict[str, int | str]:
    """Snakemake's resources of a job, in the words of its Slurm plugin: all GPUs, nodes, tasks."""
    nodes = machine.nodes if processes is None else 1
    processes = machine.processes if processes is None else processes
    found: dict[str, int | str] = {}
    if machine.device.startswith("cuda"):
        found = {"gpu": nodes * processes, "cpus_per_gpu": max(machine.threads, machine.workers)}
    if nodes > 1:
        # The plugin leaves srun to the rule where "mpi" is set; tasks_per_gpu 0 keeps it from
        # asking for as many tasks a GPU as there are nodes.
        found |= {"nodes": nodes, "mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0}
    return found


def command_line(nodes: int, processes: int, module: list[str], environment: dict) -> list[str]:
    """The process to start on this node.

    Raises:
        UserError: several nodes, and not under Slurm.
    """
    if nodes == processes == 1:
        return [sys.executable, *module]
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    if nodes == 1:
        return [*words, "--standalone", *module]
    if "SLURM_JOB_NODELIST" not in environment:
        raise UserError(
            f"machine.nodes is {nodes}, and this is not a Slurm job; start torchrun on every node "
            "yourself (docs/paper-scale.md), or use the profile profiles/slurm"
        )
    first = subprocess.run(
        ["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[0]
    job = environment["SLURM_JOB_ID"]
    return [
        *words,
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={job}",
        f"--rdzv-endpoint={first}:{RENDEZVOUS_PORT + int(job) % 1000}",
        *module,
    ]


def hold_gpus(count: int, jobs_per_gpu: int, visible: list[str]) -> list[tuple[str, int]]:
    """Wait for ``count`` GPUs with a free slot and return (id, file descriptor of the lock) each.

    Only whoever holds the first lock takes slots, so that two jobs never wait for each other with
    half of what they need.

    Raises:
        UserError: there are fewer GPUs at all.
    """
    if count > len(visible):
        raise UserError(
            f"this job needs {count} GPUs and the machine shows {len(visible)} "
            f"({', '.join(visible) or 'none'}); set machine.processes, or CUDA_VISIBLE_DEVICES"
        )
    waiting = False
    while True:
        with open(_lock("queue"), "w") as queue:
            fcntl.flock(queue, fcntl.LOCK_EX)
            held = _free_slots(count, jobs_per_gpu, visible)
            if len(held) == count:
                return held
            for _, descriptor in held:
                os.close(descriptor)
        if not waiting:
            print(f"waiting for {count} free GPU(s)", file=sys.stderr)
            waiting = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def _free_slots(count: int, jobs_per_gpu: int, visible: list[str]) -> list[tuple[str, int]]:
    """Lock a slot of as many GPUs as are free, at most ``count``; the emptiest GPUs first."""
    held: list[tuple[str, int]] = []
    for slot in range(jobs_per_gpu):
        for gpu in visible:
            if len(held) == count:
                return held
            if gpu in (taken for taken, _ in held):
                continue
            descriptor = os.open(_lock(f"{gpu}-{slot}"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            os.set_inheritable(descriptor, True)  # held by the job, and by nothing that outlives it
            held.append((gpu, descriptor))
    return held


def _lock(name: str) -> Path:
    return LOCKS / f"manifold-gpu-{os.getuid()}-{name.replace('/', '-')}.lock"


def visible_gpus(environment: dict) -> list[str]:
    """The ids of the GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [gpu for gpu in environment["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m manifold.launch", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="a node")
    parser.add_argument("--gpus", type=int, default=0, help="a node")
    parser.add_argument("--jobs-per-gpu", type=int, default=1)
    parser.add_argument("module", nargs="+", help="-m module and its arguments, after --")
    options = parser.parse_args()
    environment = dict(os.environ)
    try:
        if options.gpus and "SLURM_JOB_ID" not in environment:
            held = hold_gpus(options.gpus, options.jobs_per_gpu, visible_gpus(environment))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu for gpu, _ in held)
        words = command_line(options.nodes, options.processes, options.module, environment)
    except UserError as error:
        sys.exit(f"error: {error}")
    os.execvpe(words[0], words, environment)


if __name__ == "__main__":
    main()
