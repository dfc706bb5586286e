"""What a run is made on: the processor, and the commit of the suite."""

import platform
import subprocess
from pathlib import Path

from manifold.settings import ROOT


def processor() -> str:
    """The processor's name, as Linux gives it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def commit() -> str | None:
    """The suite's commit; None where it is no clone of a repository."""
    return _git("rev-parse", "HEAD")


def is_changed() -> bool:
    """Whether files of the commit were changed since."""
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
