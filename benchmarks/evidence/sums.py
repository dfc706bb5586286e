"""The SHA-256 of every file of a published folder, in its ``SHA256SUMS``.

The format is that of coreutils: ``sha256sum -c SHA256SUMS`` holds a folder to it without this
suite. ``python -m benchmarks publish`` writes it last, after every page that is made of the files.
"""

import re
from pathlib import Path

from manifold.files import sha256, write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write(folder: Path) -> Path:
    """Write the sums of all files of a folder but hidden ones and the sums themselves."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in _files(folder)]
    write_text(folder / SUMS, "".join(lines))
    return folder / SUMS


def check(folder: Path) -> list[str]:
    """What differs from the sums of a folder, in words; nothing where all files are as written.

    A folder without sums is one fault: nobody can say whether its files are those of its making.
    """
    path = folder / SUMS
    if not path.is_file():
        return [f"{path} is missing: nothing says which files were published"]
    listed, faults = {}, []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        if (found := _LINE.fullmatch(line)) is None:
            faults.append(f"{path}, line {number}: no line of sha256sum: {line!r}")
        else:
            listed[found[2]] = found[1]
    here = _files(folder)
    for name, digest in listed.items():
        if name not in here:
            faults.append(f"{folder / name} is missing; {SUMS} lists it")
        elif sha256(folder / name) != digest:
            faults.append(f"{folder / name} was altered: its SHA-256 is not that of {SUMS}")
    faults += [f"{folder / name} is not in {SUMS}" for name in here if name not in listed]
    return faults


def _files(folder: Path) -> list[str]:
    """The files below a folder by their names there, sorted; what is written aside is hidden."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if path != Path(SUMS) and not any(part.startswith(".") for part in path.parts)
    )
