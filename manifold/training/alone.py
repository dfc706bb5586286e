"""One process at a time for each result: whoever comes second waits, and says so.

The kernel holds the locks, so a kill frees them, whatever is killed. A training that somebody else
has started is waited for, and what it has made is found complete.
"""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from manifold import ranks
from manifold.errors import UserError, is_of_a_full_disk, no_space
from manifold.files import HOST

SECONDS_BETWEEN_TRIES = 2.0


@contextmanager
def alone_on(directories: Iterable[Path]) -> Iterator[None]:
    """Keep other processes that ask for one of these folders waiting as long as the block lasts.

    Of several ranks the first holds the locks for all.
    """
    paths = [directory.with_name(f".{directory.name}.lock") for directory in directories]
    held: dict[Path, int] = {}
    is_said = False
    while True:
        # The others ask the first again and again: none waits so long that its patience ends.
        holder = ranks.from_first(_take(paths, held) if ranks.is_first() else None)
        if holder is None:
            break
        if ranks.is_first() and not is_said:
            print(f"waiting: {holder}", file=sys.stderr, flush=True)
            is_said = True
        time.sleep(SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        _release(held)


def _take(paths: list[Path], held: dict[Path, int]) -> str | None:
    """Take all locks, or none: then say who has one of them.

    Raises:
        UserError: the disk is full.
    """
    for path in paths:
        try:
            descriptor = _lock(path)
        except BlockingIOError:
            _release(held)
            return f"{_holder(path)} is at work on {_result_of(path)}"
        except OSError as error:
            if is_of_a_full_disk(error):
                _release(held)
                path.unlink(missing_ok=True)
                raise UserError(no_space(path)) from error
            print(  # a file system without locks
                f"{path} cannot be locked ({error.strerror}): let no second run make the same",
                file=sys.stderr,
            )
            continue
        held[path] = descriptor
    return None


def _lock(path: Path) -> int:
    """Lock a file, and write into it who does.

    Raises:
        BlockingIOError: another process has it.
        OSError: files cannot be locked here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {HOST}".encode())
                return descriptor
        except FileNotFoundError:  # it has been removed since it was opened
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it has removed it since


def _release(held: dict[Path, int]) -> None:
    while held:
        path, descriptor = held.popitem()
        path.unlink(missing_ok=True)  # before others can lock it: they look whether it is there
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where workers of this process still hold it
        os.close(descriptor)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8") or "another process"
    return "another process"


def _result_of(path: Path) -> Path:
    return path.with_name(path.name.removeprefix(".").removesuffix(".lock"))
