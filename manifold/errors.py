"""The one error that a user can cause, and how it ends a process."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

MARK = "error: "  # what the last words of a process begin with
OF_OTHERS = re.compile(r"\n(?:Traceback |[EWI]\d{4} |=+\n)|\n\n")  # Python's, torchrun's, a shell's


class UserError(ValueError):
    """Input that cannot be run; the message names the culprit and the cure."""


@contextmanager
def ending_the_process() -> Iterator[None]:
    """Let a user's error end the process, with its message as the last that is said.

    Also a decorator of functions.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"{MARK}{error}") from None


def last_error(log: str) -> str | None:
    """The user's error that a process ended with, from what it said; None where there is none."""
    _, mark, rest = f"\n{log}".rpartition(f"\n{MARK}")
    return MARK + OF_OTHERS.split(rest)[0].rstrip() if mark else None
