"""A ``python`` that starts at once: its processes are forked from one that has imported everything.

A workflow of short jobs spends its time importing torch. Where a test is about the workflow and not
about fresh processes, the folder that ``started`` gives stands first on PATH. The ``python`` in it
hands ``-m manifold``, ``-m benchmarks`` and ``-m snakemake`` to a server, with its own arguments,
environment, working folder and standard streams; anything else it leaves to the real one. It ends
as the forked process does, and that process is killed when it is.

``python warm_python.py SOCKET`` is the server.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import socket
import socketserver
import subprocess
import sys
import tempfile
from multiprocessing.connection import wait
from pathlib import Path

WARM = ("manifold", "benchmarks", "snakemake")
PRELOADED = (
    *("snakemake.cli", "matplotlib.pyplot", "sklearn.linear_model"),
    *("manifold.training.train", "benchmarks.evidence.preflight", "benchmarks.table1.text"),
)
EXTRA = "benchmarks.detection.train"  # where what it needs is installed
CLIENT = """#!{python} -SE
import json, os, socket, sys

if sys.argv[1:2] != ["-m"] or sys.argv[2] not in {warm}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    status = int.from_bytes(server.recv(4), "big", signed=True)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
FORKS = multiprocessing.get_context("fork")


@contextlib.contextmanager
def started():
    """A server as long as the block lasts; gives the folder that holds its ``python``."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        client = Path(folder, "python")
        client.write_text(
            CLIENT.format(python=sys.executable, address=address, warm=WARM), encoding="utf-8"
        )
        client.chmod(0o755)
        command = [sys.executable, __file__, address]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as server:
            try:
                assert server.stdout.readline() == "listening\n"
                yield Path(folder)
            finally:
                server.kill()


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
    sys.path[0] = folder
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    for module in PRELOADED:
        importlib.import_module(module)
    with contextlib.suppress(ValueError):  # a UserError: what it needs is missing
        importlib.import_module(EXTRA)
    gc.freeze()
    with Server(sys.argv[1], Request) as listening:
        print("listening", flush=True)
        listening.serve_forever()
