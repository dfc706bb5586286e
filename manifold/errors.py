"""The one error that a user can cause, and how several of them are told at once."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_THE_USERS = (
    *(ROOT / package for package in ("manifold", "baselines", "benchmarks")),
    *(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "purelib", "platlib")),
)


class UserError(ValueError):
    """Input that cannot be run; the message names the culprit and the cure."""


def told(error: BaseException) -> str:
    """An error that is not this project's in few words: its kind, and the user's line, if any."""
    words = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if path.is_file() and not any(path.is_relative_to(folder) for folder in NOT_THE_USERS):
            return f"{words} ({frame.filename}, line {frame.lineno})"
    return words


class Faults:
    """Collects what is wrong, so that a user learns all of it at once."""

    def __init__(self):
        self.found: list[str] = []

    def add(self, fault: str) -> None:
        """Keep a fault; the same one is kept once."""
        if fault not in self.found:
            self.found.append(fault)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a user's error that ends the block, and go on behind it."""
        try:
            yield
        except UserError as error:
            self.add(str(error))

    def error(self) -> UserError:
        """All faults as one error; one alone stands as it is."""
        if len(self.found) == 1:
            return UserError(self.found[0])
        lines = [fault.replace("\n", "\n  ") for fault in self.found]
        return UserError("\n- ".join([f"{len(lines)} things are wrong:", *lines]))

    def raise_any(self) -> None:
        """Raise ``error`` where there is a fault."""
        if self.found:
            raise self.error()
