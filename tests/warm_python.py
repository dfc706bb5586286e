"""A ``python`` that starts at once: its processes are forked from one that has imported everything.

A workflow of short jobs spends its time importing torch. Where a test is about the workflow and not
about fresh processes, the folder that ``started`` gives stands first on PATH. The ``python`` in it
hands modules of the suite, Snakemake, torchrun and its workers to a server, with its own arguments,
environment, working folder and standard streams; anything else it leaves to the real one. It ends
as the forked process does, and that process is killed when it is. Where the working folder or
PYTHONPATH holds other sources of the suite, it runs those.

The workers of one run of the tests share a server. ``python warm_python.py FOLDER OWNER`` is it:
its socket stands in the folder, and both are gone when the process OWNER is.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import uuid
from multiprocessing.connection import wait
from pathlib import Path

OWN = ("manifold", "baselines", "benchmarks")
WARM = (*OWN, "snakemake", "torch", "distributed_worker")
PRELOADED = (
    *("snakemake.cli", "snakemake.report.html_reporter", "smart_open", "yte"),
    *("matplotlib.pyplot", "sklearn.linear_model", "sklearn.datasets", "markdown_it"),
    "torch.distributed.run",
)
# Where what they need is installed; else an ImportError, or a UserError, which is a ValueError.
EXTRA = ("skimage.util", "skimage.exposure", "skimage.data", "mmdet.engine.hooks")
CLIENT = """#!{python} -SE
import json, os, socket, sys

words = sys.argv[2:] if sys.argv[1:2] == ["-u"] else sys.argv[1:]  # as torchrun starts workers
if words[:1] != ["-m"] or words[1].partition(".")[0] not in {warm}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = json.dumps([words[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    status = int.from_bytes(server.recv(4), "big", signed=True)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
SOCKET = "socket"
ROOT = Path(__file__).resolve().parents[1]
OURS = ROOT / OWN[0]
FORKS = multiprocessing.get_context("fork")


def started():
    """Start this run's server, if no other worker has; return the folder that holds ``python``."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")  # of a worker, which its controller started
    owner = os.getppid() if run else os.getpid()
    folder = Path(tempfile.gettempdir(), f"warm-python-{run or uuid.uuid4().hex}")
    folder.mkdir(exist_ok=True)
    address, client = folder / SOCKET, folder / "python"
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            text = CLIENT.format(python=sys.executable, address=str(address), warm=WARM)
            client.write_text(text, encoding="utf-8")
            client.chmod(0o755)
            command = [sys.executable, __file__, str(folder), str(owner)]
            # Ends when there is a server. That one's stdout, which its children have with another
            # file behind it, must not be a file: it would be one in which they could seek.
            subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return folder


def end_with(owner, folder):
    """Look out for a process's end, and end then."""
    end = select.poll()
    end.register(os.pidfd_open(owner), select.POLLIN)
    end.poll()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Has a process of its own for each request."""


class Request(socketserver.BaseRequestHandler):
    """Forks the process that is asked for, and answers with its exit status."""

    def handle(self):
        length, streams, _, _ = socket.recv_fds(self.request, 8, 3)
        with self.request.makefile("rb") as stream:
            asked = json.loads(stream.read(int.from_bytes(length, "big")))
        process = FORKS.Process(target=run, args=(streams, *asked))
        process.start()
        if self.request in wait([self.request, process.sentinel]):  # the client is gone
            process.kill()
        process.join()
        with contextlib.suppress(BrokenPipeError):
            self.request.sendall(process.exitcode.to_bytes(4, "big", signed=True))


def run(streams, arguments, folder, environment):
    """Become ``python -m`` with these arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    paths = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:1] = paths
    found = (Path(path, OWN[0]).resolve() for path in paths)
    if next((path for path in found if path.is_dir()), OURS) != OURS:
        for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
            del sys.modules[name]
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def import_own_modules():
    """Import all that can be: some need what need not be installed."""
    for package in OWN:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not module.name.endswith(".__main__"):
                with contextlib.suppress(ImportError, ValueError):
                    importlib.import_module(module.name)


def hash_own_sources(experiment):
    """Keep what every workflow asks of the suite's own sources; those of others are read anew."""
    from manifold.settings.sources import job_hash, source_hash

    for study in experiment.studies.values():
        job_hash(type(study).__module__)
        for job in study.jobs():
            job_hash(job.run.partition(":")[0])
    for definition in experiment.method_definitions.values():
        source_hash(definition.distiller)


def read_detectors(experiment):
    """Keep mmdet's configurations, for each of which mmengine reads a hundred files."""
    with contextlib.suppress(ImportError, ValueError):
        from benchmarks.detection.configuration import read_settings

        for detector in experiment.detection.detectors:
            read_settings(experiment, detector)


def draw_figure():
    """Import what the formats need, and read the fonts."""
    from matplotlib import pyplot

    from benchmarks.evidence.document import write_figure
    from benchmarks.evidence.style import STYLE

    with tempfile.TemporaryDirectory() as folder, pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(layout="constrained")
        axes.set_title("a figure")
        write_figure(figure, Path(folder), "figure")
        pyplot.close(figure)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    gc.disable()
    for module in PRELOADED:
        importlib.import_module(module)
    for module in EXTRA:
        with contextlib.suppress(ImportError, ValueError):
            importlib.import_module(module)
    import_own_modules()
    from manifold.settings import resolve

    smoke = resolve({"scale": "smoke"})
    sys.modules["snakemake.cli"].get_argument_parser()  # looks for plugins in every folder
    hash_own_sources(smoke)
    read_detectors(smoke)
    draw_figure()
    gc.freeze()
    gc.enable()
    folder, owner = Path(sys.argv[1]), int(sys.argv[2])
    sys.executable = str(folder / "python")  # what they start is warm too
    with Server(str(folder / SOCKET), Request) as listening:
        if os.fork():
            os._exit(0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        threading.Thread(target=end_with, args=(owner, folder), daemon=True).start()
        listening.serve_forever()
