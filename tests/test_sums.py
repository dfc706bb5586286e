"""SHA256SUMS of a published folder."""

import subprocess

import pytest

from benchmarks.evidence import sums


@pytest.fixture
def folder(tmp_path):
    for name in ("table1.csv", "table1.md", "records/b.json", "records/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"of {name}", encoding="utf-8")
    sums.write(tmp_path)
    return tmp_path


def test_the_sums_are_sorted_and_those_of_sha256sum(folder):
    names = [line[66:] for line in (folder / sums.SUMS).read_text("utf-8").splitlines()]
    assert names == ["records/a.json", "records/b.json", "table1.csv", "table1.md"]
    subprocess.run(["sha256sum", "--strict", "-c", sums.SUMS], cwd=folder, check=True)
    before = (folder / sums.SUMS).read_bytes()
    sums.write(folder)
    assert sums.check(folder) == [] and (folder / sums.SUMS).read_bytes() == before


@pytest.mark.parametrize("text", ["", "other"])
def test_an_altered_or_emptied_file_is_named(folder, text):
    (folder / "table1.md").write_text(text, encoding="utf-8")
    (fault,) = sums.check(folder)
    assert fault.startswith(f"{folder / 'table1.md'} was altered")


def test_swapped_files_are_named(folder):
    first, second = (folder / f"records/{name}.json" for name in "ab")
    first.rename(folder / "c")
    second.rename(first)
    (folder / "c").rename(second)
    assert [fault.split(" was")[0] for fault in sums.check(folder)] == [str(first), str(second)]


def test_missing_and_unlisted_files_are_named(folder):
    (folder / "table1.csv").unlink()
    (folder / "more.csv").write_text("more", encoding="utf-8")
    missing, unlisted = sums.check(folder)
    assert missing.startswith(f"{folder / 'table1.csv'} is missing")
    assert unlisted == f"{folder / 'more.csv'} is not in SHA256SUMS"


def test_missing_and_damaged_sums_are_named(folder):
    text = (folder / sums.SUMS).read_text("utf-8")
    (folder / sums.SUMS).write_text(text.replace("  table1.md", ""), encoding="utf-8")
    damaged, unlisted = sums.check(folder)
    assert "line 4: no line of sha256sum" in damaged and "table1.md is not in" in unlisted
    (folder / sums.SUMS).unlink()
    (fault,) = sums.check(folder)
    assert fault.startswith(f"{folder / sums.SUMS} is missing")
