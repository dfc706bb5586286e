"""The digest of the data in a run's record: what changes it, and what must not."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence.preflight import preflight
from manifold.errors import UserError
from manifold.training.data import data_digest, load_splits

# ---- data in arrays --------------------------------------------------------------------------


@pytest.fixture
def digits(experiment):
    return load_splits(experiment().data)


def test_the_digest_is_the_same_on_every_machine(digits):
    expected = "f39c5302708090b446029f127ba3a80c1d45ee48ec1bf0a9121c97dc22b4308b"
    assert data_digest(digits) == expected


def test_preflight_finds_the_digest(digits, experiment):
    assert preflight(experiment(), ["table1"])["data_digest"] == data_digest(digits)


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
    assert data_digest(changed) != data_digest(digits)


@pytest.mark.parametrize(
    "change", [{"validation": 201}, {"validation": 0}], ids=["one more", "none"]
)
def test_other_images_held_out_change_the_digest(change, digits, experiment):
    assert data_digest(load_splits(experiment(data=change).data)) != data_digest(digits)


def test_a_class_by_another_name_changes_the_digest(digits):
    assert data_digest(replace(digits, classes=["zero", *digits.classes[1:]])) != data_digest(
        digits
    )


# ---- data in files ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
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
def digest_of(experiment):
    def make(folder, **changes):
        colour = {"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
        words = {"dataset": "folder", "folder": str(folder), "validation": 6, **colour, **changes}
        return data_digest(load_splits(experiment(data=words).data))

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


def enlarge(folder):
    with (folder / "1.png").open("ab") as file:
        file.write(b"0")


def swap(folder):
    (folder / "0.png").rename(folder / "kept.png")
    (folder / "1.png").rename(folder / "0.png")
    (folder / "kept.png").rename(folder / "1.png")


def move_to_another_class(folder):
    (folder / "1.png").rename(folder.with_name("cat") / "new.png")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [add, remove, rename, enlarge, swap, move_to_another_class])
def test_a_change_of_a_file_changes_the_digest(change, split, folder, digest_of):
    before = digest_of(folder)
    change(folder / split / "bee")
    assert digest_of(folder) != before


def test_a_class_folder_by_another_name_changes_the_digest(folder, digest_of):
    before = digest_of(folder)
    for split in ("train", "val"):
        (folder / split / "bee").rename(folder / split / "bug")
    assert digest_of(folder) != before


def test_other_files_held_out_change_the_digest(folder, digest_of):
    assert digest_of(folder, validation=6) != digest_of(folder, validation=9)


def test_how_networks_see_the_files_does_not_change_the_digest(folder, digest_of):
    grey = {"channels": 1, "mean": [0.5], "std": [0.25]}
    assert digest_of(folder) == digest_of(folder, image_size=16, **grey)


def test_a_file_that_is_gone_is_an_error_that_names_it(folder, experiment):
    words = {"dataset": "folder", "folder": str(folder), "validation": 6}
    splits = load_splits(experiment(data=words).data)
    path = folder / "val" / "cat" / "1.png"
    path.unlink()
    with pytest.raises(UserError, match=f"{path} cannot be read: No such file .*; replace it"):
        data_digest(splits)
