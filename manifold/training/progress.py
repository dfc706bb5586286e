"""How far a long task is: a bar on a terminal, and whole lines in a log.

The workflow's rules pipe what a job says into its log, and jobs that run at once share one output.
There a bar that is drawn over itself would run into another job's, so it is lines instead, each
of them written at once:

    seed 0, soft_kd +4 [epoch 1/2]: 430/859 steps, 12.3 step/s, 35 s left
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_DRAWINGS = 0.5


def progress(
    items: Iterable | None = None,
    *,
    what: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    leave: bool = True,
    disable: bool | None = False,
) -> "tqdm | ProgressLines":
    """Show how far a loop over ``items`` is, or whoever calls ``update`` and, at last, ``close``.

    Args:
        items: what is iterated over.
        what: the words that the bar or the line begins with: what is being done.
        unit: one item, in the singular.
        total: how many items there are; by default as many as ``items`` says.
        initial: how many are done already.
        leave: whether a bar that has ended stays on the terminal.
        disable: show nothing; None: nothing but a bar on a terminal.
    """
    if not sys.stderr.isatty():
        return ProgressLines(items, what, unit, total, initial, disable is None or disable)
    return tqdm(
        items,
        desc=what,
        unit=unit,
        total=total,
        initial=initial,
        leave=leave,
        disable=disable,
        mininterval=SECONDS_BETWEEN_DRAWINGS,
    )


class ProgressLines:
    """What tqdm's bar is to a terminal, for a log; a task of a few seconds leaves no line there."""

    def __init__(
        self,
        items: Iterable | None,
        what: str,
        unit: str,
        total: int | None,
        initial: int,
        disable: bool,
    ):
        self.items = items
        self.what = what
        self.unit = unit
        self.total = len(items) if total is None and hasattr(items, "__len__") else total
        self.initial = self.done = initial
        self.disable = disable
        self.postfix = ""
        self._start = time.monotonic()
        self._due = self._start + SECONDS_BETWEEN_LINES

    def __iter__(self) -> Iterator:
        try:
            for item in self.items:
                yield item
                self.update()
        finally:
            self.close()

    def update(self, count: int = 1) -> None:
        """Count items that are done; write a line if one is due."""
        self.done += count
        now = time.monotonic()
        if now >= self._due:
            self._due = now + SECONDS_BETWEEN_LINES
            self._write(now, is_end=False)

    def set_postfix(self, refresh: bool = True, **values: Any) -> None:
        """Let the lines end in these values, from the next one on; the arguments are tqdm's."""
        self.postfix = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        """Write the last line, where the task was long enough for others."""
        now = time.monotonic()
        if now >= self._start + SECONDS_BETWEEN_LINES:
            self._write(now, is_end=True)

    def _write(self, now: float, is_end: bool) -> None:
        if not self.disable:
            # In one call, with its end: print makes two where Python does not buffer.
            sys.stderr.write(self._line(now - self._start, is_end) + "\n")
            sys.stderr.flush()

    def _line(self, seconds: float, is_end: bool) -> str:
        of_total = "" if self.total is None else f"/{self.total}"
        units = f"{self.unit}es" if self.unit.endswith("ch") else f"{self.unit}s"
        line = f"{self.what}: {self.done}{of_total} {units}"
        rate = (self.done - self.initial) / max(seconds, 1e-9)
        if rate >= 1:
            line += f", {_three_digits(rate)} {self.unit}/s"
        elif rate > 0:
            line += f", {_three_digits(1 / rate)} s/{self.unit}"
        if is_end:
            line += f", took {duration(seconds)}"
        elif rate > 0 and self.total is not None:
            line += f", {duration((self.total - self.done) / rate)} left"
        return line + self.postfix


def _three_digits(number: float) -> str:
    """12.3, 1.23 or 1234: at least three digits, all of a whole number."""
    decimals = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{decimals}f}"


def duration(seconds: float) -> str:
    """35 s, 3 min 5 s or 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
