"""Finished cells outlive Snakemake, which removes all outputs of a job before it starts it again.

When a run starts, hard links to the files of every finished cell are put beside it; a job that
looks for a cell brings back what was removed; when all has ended well, the links go. So a cohort
of which one cell was deleted trains that cell alone, and a run that is killed at any moment, and
started again, makes nothing twice.
"""

import shutil
from pathlib import Path

from manifold.files import link, sha256
from manifold.settings.made_by import read_record
from manifold.settings.stale import RECORDS


def keep_all(root: Path) -> None:
    """Link the finished cells of a folder of results, at any depth."""
    for record in _records(root):
        if not _is_link_folder(record.parent):
            _keep(record)


def forget_all(root: Path) -> None:
    """Remove all links of a folder of results."""
    for record in _records(root):
        if _is_link_folder(record.parent):
            shutil.rmtree(record.parent)


def bring_back(directory: Path, record: str, fingerprint: str) -> None:
    """Put the files of a cell back into its folder, if those of this very configuration were kept.

    Args:
        record: the name of the file that holds its fingerprint.
    """
    links = link_folder(directory, record)
    found = _read(links / record)
    if found is None:
        return
    is_whole = found["fingerprint"] == fingerprint and all(
        (links / name).is_file() and sha256(links / name) == digest
        for name, digest in found["files"].items()
    )
    if is_whole:
        directory.mkdir(parents=True, exist_ok=True)
        for name in (*found["files"], record):  # the record last: it says that all is there
            link(links / name, directory / name)


def link_folder(directory: Path, record: str) -> Path:
    """Where the links to a cell's files are: hidden, beside its folder."""
    return directory.with_name(f".{directory.name}.{Path(record).stem}.finished")


def _records(root: Path) -> list[Path]:
    """All records below a folder, listed before any is touched."""
    return [record for name in RECORDS for record in root.rglob(name)]


def _is_link_folder(folder: Path) -> bool:
    return folder.name.startswith(".") and folder.name.endswith(".finished")


def _read(record: Path) -> dict | None:
    """The record of a cell; None where there is none, or it is damaged or no cell's."""
    found = read_record(record) or {}
    is_cell = "fingerprint" in found and isinstance(found.get("files"), dict)
    return found if is_cell else None


def _keep(record: Path) -> None:
    found = _read(record)
    names = [] if found is None else [*found["files"], record.name]
    if not names or not all((record.parent / name).is_file() for name in names):
        return
    links = link_folder(record.parent, record.name)
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for name in names:
        link(record.parent / name, links / name)
