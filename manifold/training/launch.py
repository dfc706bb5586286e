"""How a job's processes are started, and which GPUs they are given.

A rule calls ``<launcher> -m manifold train …``. With one process and no GPU the launcher is
``python``. Else it is ``python -m manifold launch``, which starts torchrun where there are several
processes. It waits for free GPUs, holds each by a lock as long as the job lives (a killed job frees
them), and shows the job those alone by ``CUDA_VISIBLE_DEVICES``. With several nodes, ``srun``
starts it on each.

A lock is named by the GPU's UUID. So it says the same whatever numbers a process sees: jobs that
share what Slurm gave to one allocation take turns, and jobs that Slurm has parted, in each of which
the GPU is called 0, do not see each other's locks.
"""

import argparse
import fcntl
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from manifold.errors import UserError, ending_the_process
from manifold.settings import Machine

LOCKS = Path(tempfile.gettempdir())
SECONDS_BETWEEN_TRIES = 5.0
RENDEZVOUS_PORT = 29400
RENDEZVOUS_SECONDS = 300  # srun starts all nodes at once, but a cold file system may hold one up
SECONDS_TO_REACH_ITSELF = 10.0

# A process of its own, so that nothing of CUDA stays in one that waits for a GPU.
PRINT_UUIDS = (
    "import torch\n"
    "for number in range(torch.cuda.device_count()):\n"
    "    print(torch.cuda.get_device_properties(number).uuid)\n"
)


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
    words = f"python -m manifold launch --nodes {nodes} --processes {processes}"
    if has_gpus:
        words += f" --gpus {processes} --jobs-per-gpu {machine.jobs_per_gpu}"
    if nodes > 1:
        gpus = f"--gres={gres(machine, processes)} " if has_gpus else ""
        words = (
            f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 "
            f"{gpus}--cpus-per-task={cpus(machine)} {words}"
        )
    return f"{words} --"


def cpus(machine: Machine, processes: int | None = None) -> int:
    """Snakemake's threads of a job on one node: each process has its own, or its workers."""
    return (processes or machine.processes) * max(machine.threads, machine.workers)


def gres(machine: Machine, gpus: int) -> str:
    """The GPUs of one node in the words of Slurm's ``--gres``, which counts them by node.

    Raises:
        UserError: ``machine.gres`` is not a name that Slurm and its plugin take.
    """
    name = machine.gres or "gpu"
    if not re.fullmatch(r"gpu(:(?!\d{1,2}$)[A-Za-z0-9_.]+)?", name):  # 3090 is a type, 8 is none
        raise UserError(
            "machine.gres must be gpu or gpu:TYPE (letters, digits, _ and .), as `sinfo -o %G` "
            f"lists them, without the number, which machine.processes is; got {name!r}"
        )
    return f"{name}:{gpus}"


def resources(machine: Machine, processes: int | None = None) -> dict[str, int | str]:
    """Snakemake's resources of a job, in the words of its Slurm plugin: GPUs, nodes, tasks.

    Time and memory are not among them: what a rule asks for hides a profile's default-resources,
    where they belong.
    """
    nodes = machine.nodes if processes is None else 1
    processes = machine.processes if processes is None else processes
    found: dict[str, int | str] = {}
    if machine.device.startswith("cuda"):
        # `gpu` is those of all nodes, and Slurm might lay them out unevenly; `gres` is by node.
        if nodes > 1 or machine.gres is not None:
            found = {"gres": gres(machine, processes)}
        else:
            found = {"gpu": processes, "cpus_per_gpu": max(machine.threads, machine.workers)}
        found["nodes"] = nodes
    if nodes > 1:
        # The plugin leaves srun to the rule where "mpi" is set; tasks_per_gpu 0 keeps it from
        # asking for as many tasks a GPU as there are nodes.
        found |= {"nodes": nodes, "mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0}
    return found


# ---- processes ---------------------------------------------------------------------------------


def command_line(nodes: int, processes: int, module: list[str], environment: dict) -> list[str]:
    """The process to start on this node.

    Raises:
        UserError: several nodes, which cannot meet.
    """
    if nodes == processes == 1:
        return [sys.executable, *module]
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    if nodes == 1:
        return [*words, "--standalone", *module]
    return [*words, f"--nnodes={nodes}", *rendezvous(nodes, environment), *module]


def rendezvous(nodes: int, environment: dict) -> list[str]:
    """torchrun's words for where the nodes of a Slurm step meet: at the first, by Slurm's names.

    Left alone, torchrun compares names and addresses to find the node that hosts the meeting, and
    gives the others the name that a machine has for itself. Slurm's name may be another one, so
    both are said here.

    Raises:
        UserError: this is no step of so many nodes, or a node is not found by its name.
    """
    if "SLURM_STEP_NODELIST" not in environment:
        raise UserError(
            f"machine.nodes is {nodes}, and srun has not started this process; use the profile "
            "profiles/slurm, or start torchrun on every node yourself (docs/paper-scale.md)"
        )
    names = _hostnames(environment["SLURM_STEP_NODELIST"])
    if len(names) != nodes:
        raise UserError(
            f"machine.nodes is {nodes}, and srun has started this on {len(names)} "
            f"({', '.join(names)}); let them agree"
        )
    node = int(environment["SLURM_NODEID"])
    _check_names(names, names[node])
    job, step = environment["SLURM_JOB_ID"], environment["SLURM_STEP_ID"]
    port = RENDEZVOUS_PORT + (int(job) + int(step)) % 1000
    print(
        f"node {node + 1} of {nodes}, {names[node]}: meeting at {names[0]}, port {port}",
        file=sys.stderr,
    )
    limits = f"join_timeout={RENDEZVOUS_SECONDS},read_timeout={RENDEZVOUS_SECONDS}"
    return [
        "--rdzv-backend=c10d",
        f"--rdzv-id={job}.{step}",
        f"--rdzv-endpoint={names[0]}:{port}",
        f"--rdzv-conf=is_host={str(node == 0).lower()},{limits}",
        f"--local-addr={names[node]}",
    ]


def _hostnames(nodelist: str) -> list[str]:
    question = ["scontrol", "show", "hostnames", nodelist]
    try:
        return subprocess.run(
            question, capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"several nodes meet by the names that `{' '.join(question)}` lists, and on "
            f"{socket.gethostname()} that fails ({error}); Slurm's commands must be on PATH there"
        ) from None


def _check_names(names: list[str], own: str) -> None:
    advice = (
        "every node must know Slurm's names, those of slurm.conf, by DNS or /etc/hosts; "
        "ask whoever runs the cluster"
    )
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            raise UserError(
                f"Slurm calls a node of this job {name}, and {socket.gethostname()} finds no "
                f"address of that name ({error}); {advice}"
            ) from None
    if not _leads_here(own):
        raise UserError(
            f"Slurm calls this node {own}, and that name does not lead to this machine, "
            f"{socket.gethostname()}; {advice}"
        )


def _leads_here(name: str) -> bool:
    """Whether this machine reaches itself by a name."""
    has_both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if has_both else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=has_both) as server:
        server.settimeout(SECONDS_TO_REACH_ITSELF)
        try:
            address = (name, server.getsockname()[1])
            with socket.create_connection(address, timeout=SECONDS_TO_REACH_ITSELF):
                server.accept()[0].close()
        except OSError:
            return False
    return True


# ---- GPUs --------------------------------------------------------------------------------------


def hold_gpus(count: int, jobs_per_gpu: int, visible: dict[str, str]) -> list[tuple[str, int]]:
    """Wait for ``count`` GPUs with a free slot and return (id, file descriptor of the lock) each.

    Only whoever holds the first lock takes slots, so that two jobs never wait for each other with
    half of what they need.

    Args:
        visible: the UUIDs of the GPUs to choose from, by id.

    Raises:
        UserError: there are fewer GPUs at all.
    """
    if count > len(visible):
        raise UserError(
            f"this job needs {count} GPUs and the machine shows {len(visible)} "
            f"({', '.join(visible) or 'none'}); set machine.processes, or CUDA_VISIBLE_DEVICES. "
            "In an allocation of Slurm's, start Snakemake on the node that has the GPUs"
        )
    waiting = False
    while True:
        with open(_lock("queue"), "w", encoding="utf-8") as queue:
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


def _free_slots(count: int, jobs_per_gpu: int, visible: dict[str, str]) -> list[tuple[str, int]]:
    """Lock a slot of as many GPUs as are free, at most ``count``; the emptiest GPUs first."""
    held: list[tuple[str, int]] = []
    for slot in range(jobs_per_gpu):
        for gpu, uuid in visible.items():
            if len(held) == count:
                return held
            if gpu in (taken for taken, _ in held):
                continue
            descriptor = os.open(_lock(f"{uuid}-{slot}"), os.O_RDWR | os.O_CREAT, 0o600)
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


def visible_gpus(environment: dict) -> dict[str, str]:
    """The UUIDs of the GPUs that this process may use, by the id that CUDA knows each by.

    Raises:
        UserError: torch cannot say.
    """
    asked = subprocess.run(
        [sys.executable, "-c", PRINT_UUIDS],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if asked.returncode != 0:
        raise UserError(f"torch finds no GPUs, and machine.device is cuda:\n{asked.stderr}")
    uuids = asked.stdout.split()
    if "CUDA_VISIBLE_DEVICES" in environment:
        ids = [gpu.strip() for gpu in environment["CUDA_VISIBLE_DEVICES"].split(",")]
    else:
        ids = [str(number) for number in range(len(uuids))]
    # CUDA ignores what follows an id that it does not know. A part of a GPU (MIG) is called by its
    # own UUID, which is not the GPU's.
    return {
        gpu: gpu if gpu.startswith("MIG-") else uuid for gpu, uuid in zip(ids, uuids, strict=False)
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m manifold launch", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="a node")
    parser.add_argument("--gpus", type=int, default=0, help="a node")
    parser.add_argument("--jobs-per-gpu", type=int, default=1)
    parser.add_argument("module", nargs="+", help="-m module and its arguments, after --")
    options = parser.parse_args()
    environment = dict(os.environ)
    with ending_the_process():
        if options.gpus:
            held = hold_gpus(options.gpus, options.jobs_per_gpu, visible_gpus(environment))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu for gpu, _ in held)
        words = command_line(options.nodes, options.processes, options.module, environment)
    os.execvpe(words[0], words, environment)
