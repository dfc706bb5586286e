"""Snakemake as the tests start it."""

import os
import subprocess


def snakemake(folder, *arguments, timeout=None, **environment):
    """Run it in a folder, by the ``python`` that PATH names; what it says is kept.

    Args:
        timeout: seconds.
        environment: variables on top of this process's.
    """
    return subprocess.run(
        ["python", "-m", "snakemake", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )
