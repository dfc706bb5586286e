"""The digest of the data in a run's record: what changes it, what must not, and what is read."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence.preflight import preflight
from manifold.files import sha256
from manifold.settings import data_files
from manifold.settings.data_files import files_digest
from manifold.training.data import load_splits
from manifold.training.data.digest import digest_of_splits

# ---- data in arrays --------------------------------------------------------------------------


@pytest.fixture
def digits(experiment):
    return load_splits(experiment().data)


def test_the_digest_is_the_same_on_every_machine(digits):
    expected = "f39c5302708090b446029f127ba3a80c1d45ee48ec1bf0a9121c97dc22b4308b"
    assert digest_of_splits(digits) == expected


@pytest.mark.slow
def test_preflight_finds_the_digest(digits, experiment):
    found = preflight(experiment(), ["table1"])
    assert found["data_digest"] == digest_of_splits(digits)


def with_array(images, array):
    return replace(images, source=replace(images.source, images=array))


def change_pixel(images):
    array = images.source.images.copy()
    array[images.indices[-1], -1, -1] += 1
    return with_array(images, array)


def change_label(images):
    labels = images.labels.copy()
    labels[images.indices[0]] += 1
    return replace(images, labels=labels)


def swap_images(images):
    array, (first, second) = images.source.images.copy(), images.indices[:2]
    array[[first, second]] = array[[second, first]]
    return with_array(images, array)


def drop_image(images):
    return replace(images, indices=images.indices[:-1])


def change_shape(images):
    return with_array(images, images.source.images.reshape(-1, 4, 16))


def change_type(images):
    return with_array(images, images.source.images.view(np.int8))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    "change", [change_pixel, change_label, swap_images, drop_image, change_shape, change_type]
)
def test_a_change_of_an_array_changes_the_digest(change, split, digits):
    changed = replace(digits, **{split: change(getattr(digits, split))})
    assert digest_of_splits(changed) != digest_of_splits(digits)


@pytest.mark.parametrize(
    "change", [{"validation": 201}, {"validation": 0}], ids=["one more", "none"]
)
def test_other_images_held_out_change_the_digest(change, digits, experiment):
    changed = load_splits(experiment(data=change, detection=None).data)
    assert digest_of_splits(changed) != digest_of_splits(digits)


def test_a_class_by_another_name_changes_the_digest(digits):
    changed = replace(digits, classes=["zero", *digits.classes[1:]])
    assert digest_of_splits(changed) != digest_of_splits(digits)


# ---- data in files ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, looks_each_time):
    """Images of three classes, six of each in train/ and two in val/, all of different sizes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("ant", "bee", "cat"):
            directory = tmp_path / "pets" / split / name
            directory.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (8 + index, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(directory / f"{index}.png")
    return tmp_path / "pets"


@pytest.fixture
def digest_of(experiment, tmp_path):
    def make(folder, **changes):
        colour = {"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        words = {"dataset": "folder", "folder": str(folder), "validation": 6, **colour, **changes}
        return files_digest(experiment(data=words).data, tmp_path / "results")

    return make


def move(folder, _):
    return folder.rename(folder.with_name("elsewhere"))


def write_in_another_order(folder, _):
    copy = folder.with_name("copy")
    for path in sorted(folder.rglob("*.png"), reverse=True):
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return copy


def list_in_another_order(folder, monkeypatch):
    walk = os.walk

    def walk_backwards(*arguments, **options):
        for root, folders, names in reversed(list(walk(*arguments, **options))):
            yield root, folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", walk_backwards)
    return folder


def change_times(folder, _):
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    return folder


def name_relatively(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    return folder.name


def name_as_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return "."


def link(folder, _):
    other = folder.with_name("link")
    other.symlink_to(folder)
    return other


@pytest.mark.parametrize(
    "change",
    [
        *(move, write_in_another_order, list_in_another_order, change_times),
        *(name_relatively, name_as_the_current_folder, link),
    ],
)
def test_the_same_files_have_the_same_digest_wherever_they_are(
    change, folder, digest_of, monkeypatch
):
    before = digest_of(folder)
    assert digest_of(change(folder, monkeypatch)) == before


def add(folder):
    shutil.copyfile(folder / "0.png", folder / "new.png")


def remove(folder):
    (folder / "1.png").unlink()


def rename(folder):
    (folder / "1.png").rename(folder / "10.png")


def write_in_place(folder):
    """Other bytes of the same number, as an image editor may leave them."""
    content = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def enlarge(folder):
    with (folder / "1.png").open("ab") as file:
        file.write(b"0")


def swap(folder):
    (folder / "0.png").rename(folder / "kept.png")
    (folder / "1.png").rename(folder / "0.png")
    (folder / "kept.png").rename(folder / "1.png")


def move_to_another_class(folder):
    (folder / "1.png").rename(folder.with_name("cat") / "new.png")


CHANGES = [add, remove, rename, enlarge, write_in_place, swap, move_to_another_class]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_file_changes_the_digest(change, split, folder, digest_of):
    before = digest_of(folder)
    change(folder / split / "bee")
    assert digest_of(folder) != before


def test_a_class_folder_by_another_name_changes_the_digest(folder, digest_of):
    before = digest_of(folder)
    for split in ("train", "val"):
        (folder / split / "bee").rename(folder / split / "bug")
    assert digest_of(folder) != before


def test_how_networks_see_the_files_does_not_change_the_digest(folder, digest_of):
    grey = {"channels": 1, "mean": [0.5], "std": [0.25], "validation": 9}
    assert digest_of(folder) == digest_of(folder, image_size=16, **grey)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", ".ipynb_checkpoints/0.png", "a.txt"])
def test_what_is_not_read_does_not_change_the_digest(name, folder, digest_of):
    before = digest_of(folder)
    path = folder / "train/bee" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"0")
    assert digest_of(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        {"dataset": "digits", "folder": None},
        {"dataset": "fashion_mnist"},  # before and after it is fetched
        {"dataset": "folder", "folder": "nowhere"},
        {"dataset": "flowers102"},
    ],
)
def test_data_that_cannot_change_or_are_not_there_have_none(words, folder, experiment, tmp_path):
    words = {"folder": str(folder), **words}
    assert files_digest(experiment(data=words).data, tmp_path / "results") is None


# ---- what is read to know the files again ----------------------------------------------------


@pytest.fixture
def read(monkeypatch):
    """The files whose bytes were read, as paths of a folder and a name."""
    names = []

    def remembered(path):
        names.append(f"{path.parent.name}/{path.name}")
        return sha256(path)

    monkeypatch.setattr(data_files, "sha256", remembered)
    monkeypatch.setattr(data_files, "SETTLED_SECONDS", -1)
    return names


def test_bytes_are_read_once_and_again_where_a_file_was_changed_or_touched(folder, digest_of, read):
    before = digest_of(folder)
    assert len(read) == 24
    read.clear()
    assert digest_of(folder) == before and read == []
    os.utime(folder / "train/ant/0.png", (1, 1))
    assert digest_of(folder) == before and read == ["ant/0.png"]
    read.clear()
    write_in_place(folder / "val/cat")
    assert digest_of(folder) != before and read == ["cat/1.png"]


def test_a_file_that_is_as_young_as_its_digest_is_read_again(folder, digest_of, read, monkeypatch):
    monkeypatch.setattr(data_files, "SETTLED_SECONDS", 3600)
    assert digest_of(folder) == digest_of(folder)
    assert len(read) == 48


@pytest.mark.parametrize("content", ["", "{", "[]", '{"digest": 1, "other": 2}'])
def test_a_damaged_memory_is_none(content, folder, digest_of, read, tmp_path):
    before = digest_of(folder)
    (memory,) = (tmp_path / "results/.data").iterdir()
    memory.write_text(content, encoding="utf-8")
    read.clear()
    assert digest_of(folder) == before and len(read) == 24


def test_results_that_may_not_be_written_cost_time_alone(folder, digest_of, tmp_path):
    (tmp_path / "results").write_text("in the place of a folder", encoding="utf-8")
    assert digest_of(folder) == digest_of(folder)


def test_large_data_are_told_by_their_sizes(folder, digest_of, read, monkeypatch):
    monkeypatch.setattr(data_files, "MOST_BYTES", 100)
    before = digest_of(folder)
    write_in_place(folder / "train/ant")
    assert digest_of(folder) == before and read == []
    enlarge(folder / "train/ant")
    assert digest_of(folder) != before


def test_of_very_many_files_folders_alone_are_looked_at(folder, digest_of, read, monkeypatch):
    monkeypatch.setattr(data_files, "MOST_FILES", 5)
    before = digest_of(folder)
    asked = []
    stamp = data_files._stamp
    monkeypatch.setattr(data_files, "_stamp", lambda path: asked.append(path) or stamp(path))
    assert digest_of(folder) == before and read == []
    assert not [path for path in asked if path.endswith(".png")] and len(asked) == 8
    add(folder / "val/cat")
    assert digest_of(folder) != before


def test_a_process_walks_through_a_folder_once(tmp_path, monkeypatch):
    """All jobs of a plan are held to one state of the data."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / split / "0.png")
    walks = []
    walk = data_files.walk
    monkeypatch.setattr(data_files, "walk", lambda *given: walks.append(given) or walk(*given))
    given = (tmp_path, ("train", "val"), (".png",), tmp_path / "results")
    digests = {data_files.digest_of_folders(*given) for _ in range(3)}
    assert len(digests) == 1 and len(walks) == 2  # train and val
