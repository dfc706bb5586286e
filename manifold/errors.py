"""The one error that a user can cause, and how it ends a process."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "error: "  # what the last words of a process begin with
OF_OTHERS = re.compile(r"\n(?:Traceback |[EWI]\d{4} |=+\n)|\n\n")  # Python's, torchrun's, a shell's
NO_SPACE = "No space left"


class UserError(ValueError):
    """Input that cannot be run; the message names the culprit and the cure."""


@contextmanager
def ending_the_process() -> Iterator[None]:
    """Let a user's error, or a full disk, end the process, with its message as the last words.

    Also a decorator of functions.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"{MARK}{error}") from None
    except Exception as error:
        if not is_of_a_full_disk(error):
            raise
        raise SystemExit(f"{MARK}{no_space(getattr(error, 'filename', None))}") from None


def last_error(log: str) -> str | None:
    """The user's error that a process ended with, from what it said; None where there is none."""
    _, mark, rest = f"\n{log}".rpartition(f"\n{MARK}")
    return MARK + OF_OTHERS.split(rest)[0].rstrip() if mark else None


# ---- full disks ------------------------------------------------------------------------------


def is_of_a_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that there is no space left: libraries wrap it."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_space(path: Path | str | None) -> str:
    """What a user is told of a full disk, in one line."""
    where = "" if path is None else f"{path}: "
    return (
        f"{where}{NO_SPACE} on the disk; free some, and give the command again: what is finished "
        "stays"
    )
