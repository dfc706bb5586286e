"""What Snakemake removes before a job is brought back, as it was, and only that."""

import json

import pytest

from manifold.files import sha256
from manifold.settings.stale import RECORDS
from manifold.training.finished import forget_all, keep_all, link_folder
from manifold.training.records import is_complete

FILES = {"student.safetensors": b"weights", "metrics.csv": b"epoch\n1\n"}
NAMES = (*FILES, "run.json")


def write_cell(directory, fingerprint="f", record="run.json"):
    directory.mkdir(parents=True)
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    found = {
        "fingerprint": fingerprint,
        "files": {name: sha256(directory / name) for name in FILES},
    }
    (directory / record).write_text(json.dumps(found), encoding="utf-8")


def remove(directory):
    for path in directory.iterdir():
        path.unlink()


@pytest.fixture
def cell(tmp_path):
    directory = tmp_path / "cells/pair/A/2-epochs/sp/seed-0"
    write_cell(directory)
    return directory


@pytest.mark.parametrize("removed", [NAMES, ("student.safetensors",), ("run.json",)])
def test_a_cell_that_was_removed_is_brought_back(cell, tmp_path, removed):
    before = {path.name: path.read_bytes() for path in cell.iterdir()}
    keep_all(tmp_path)
    for name in removed:
        (cell / name).unlink()
    assert is_complete(cell, NAMES, "run.json", "f")
    assert {path.name: path.read_bytes() for path in cell.iterdir()} == before


def test_a_cell_whose_folder_is_gone_is_brought_back(cell, tmp_path):
    keep_all(tmp_path)
    remove(cell)
    cell.rmdir()
    assert is_complete(cell, NAMES, "run.json", "f")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda links: (links / "student.safetensors").write_bytes(b"others!"),
        lambda links: (links / "metrics.csv").unlink(),
        lambda links: (links / "run.json").write_text("{", encoding="utf-8"),
        lambda links: (links / "run.json").write_text("{}", encoding="utf-8"),
    ],
)
def test_what_is_harmed_is_not_brought_back(cell, tmp_path, spoil):
    keep_all(tmp_path)
    remove(cell)
    spoil(link_folder(cell, "run.json"))
    assert not is_complete(cell, NAMES, "run.json", "f")
    assert not list(cell.iterdir())


def test_a_cell_of_another_configuration_is_not_brought_back(cell, tmp_path):
    keep_all(tmp_path)
    remove(cell)
    assert not is_complete(cell, NAMES, "run.json", "another")
    assert not list(cell.iterdir())


def test_a_cell_that_is_there_is_left_alone(cell, tmp_path):
    keep_all(tmp_path)
    (cell / "metrics.csv").write_bytes(b"edited")
    assert not is_complete(cell, NAMES, "run.json", "f")
    assert (cell / "metrics.csv").read_bytes() == b"edited"


def test_a_run_that_ended_well_leaves_no_links(cell, tmp_path):
    keep_all(tmp_path)
    assert link_folder(cell, "run.json").is_dir()
    forget_all(tmp_path)
    assert not link_folder(cell, "run.json").exists()
    remove(cell)
    assert not is_complete(cell, NAMES, "run.json", "f")


def test_a_cell_that_is_half_there_is_not_kept(cell, tmp_path):
    (cell / "student.safetensors").unlink()
    keep_all(tmp_path)
    assert not link_folder(cell, "run.json").exists()


def test_new_weights_take_the_place_of_the_kept_ones_and_do_not_change_them(cell, tmp_path):
    """Writing aside and renaming makes another file: the link keeps the old one."""
    keep_all(tmp_path)
    new = cell / ".student.partial"
    new.write_bytes(b"new")
    new.replace(cell / "student.safetensors")
    links = link_folder(cell, "run.json")
    assert (links / "student.safetensors").read_bytes() == b"weights"
    remove(cell)
    write_cell_again = {"fingerprint": "g", "files": {}}
    (cell / "run.json").write_text(json.dumps(write_cell_again), encoding="utf-8")
    keep_all(tmp_path)
    assert sorted(path.name for path in links.iterdir()) == ["run.json"]


@pytest.mark.parametrize("text", ["[]", '{"fingerprint": "f", "files": 3}', "{"])
def test_a_file_of_a_records_name_that_is_none_is_let_be(text, cell, tmp_path):
    other = tmp_path / "mine/run.json"
    other.parent.mkdir()
    other.write_text(text, encoding="utf-8")
    keep_all(tmp_path)
    assert link_folder(cell, "run.json").is_dir()
    assert not link_folder(other.parent, "run.json").exists()


@pytest.mark.parametrize("record", RECORDS)
def test_whatever_has_a_record_is_brought_back(record, tmp_path):
    folder = tmp_path / "maps/seed-0"
    write_cell(folder, "m", record)
    keep_all(tmp_path)
    remove(folder)
    assert is_complete(folder, (*FILES, record), record, "m")


def test_probes_and_fine_tuning_beside_them_are_kept_apart(tmp_path):
    folder = tmp_path / "transfer/digits/sp/seed-0"
    write_cell(folder, "p", "probes.json")
    write_cell(folder / "fine-tuning", "t")
    keep_all(tmp_path)
    keep_all(tmp_path)  # links of links are not made
    for directory in (folder / "fine-tuning", folder):
        for path in directory.iterdir():
            if path.is_file():
                path.unlink()
    assert is_complete(folder, (*FILES, "probes.json"), "probes.json", "p")
    assert is_complete(folder / "fine-tuning", NAMES, "run.json", "t")
    forget_all(tmp_path)
    assert not list(tmp_path.rglob("*.finished"))
