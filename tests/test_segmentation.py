"""Segmentation: masks and their faults, mIoU against other computations, the study end to end."""

import ast
import errno
import io
import json
import struct
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score

from benchmarks.backbones import open_network
from benchmarks.dense import PATCH_EMBEDDING
from benchmarks.scenes.compose import Composer
from benchmarks.segmentation import (
    CONTROLS,
    FROZEN,
    PROTOCOLS,
    UNTRAINED,
    table,
)
from benchmarks.segmentation import check as check_module
from benchmarks.segmentation import masks as masks_module
from benchmarks.segmentation import train as train_module
from benchmarks.segmentation import training as training_module
from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.segmentation.data import Examples, fit, open_split, read_found
from benchmarks.segmentation.masks import lookup, read_folder, read_mask
from benchmarks.segmentation.measure import measure
from benchmarks.segmentation.networks import LinearHead, Segmenter, UPerDecoder, enlarge
from benchmarks.segmentation.pictures import MUTED, colours, painted
from benchmarks.segmentation.prepare import prepare, take_folder
from benchmarks.segmentation.scores import confusion, scores
from benchmarks.segmentation.settings import IGNORED, Decoder
from benchmarks.segmentation.train import run
from benchmarks.segmentation.untrained import initialise as initialise_student
from manifold.errors import UserError
from manifold.files import sha256, write_text
from manifold.models import create_model, save_weights
from manifold.settings import ROOT, Model, resolve, to_plain
from manifold.training.data import load_splits
from manifold.training.runs import student_setting
from manifold.training.train import train as train_students
from manifold.training.untrained import initialise

SIZES = [(40, 30), (25, 50), (32, 32), (17, 23)]  # width, height
NAMES = ["sky", "tree", "road"]
METHODS = ["soft_kd", "manifold"]
PART = {"images": "images", "masks": "masks"}
FOLDERS = {"train": PART, "test": PART}


# ---- folders of images and masks -------------------------------------------------------------


def write_folder(root, colour=True, zero=False, sizes=SIZES):
    """Images of noise with masks of three classes and ignored pixels; a palette in every other."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (root / split / kind / "sub").mkdir(parents=True)
        for number, (width, height) in enumerate(sizes):
            shape = (height, width, 3) if colour else (height, width)
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            name = f"sub/{number}" if number == 1 else str(number)
            Image.fromarray(pixels).save(root / split / "images" / f"{name}.jpg")
            values = generator.integers(0, 3, (height, width), dtype=np.uint8) + int(zero)
            values[:3] = IGNORED
            if zero:
                values[3:5] = 0
            mask = Image.fromarray(values)
            if number % 2:
                mask.putpalette(list(range(256)) * 3)
            mask.save(root / split / "masks" / f"{name}.png")
    return {
        split: {kind: str(root / split / kind) for kind in ("images", "masks")}
        for split in ("train", "test")
    }


def of_folder(folders, class_names=NAMES, **changes):
    """The section's data of a folder."""
    data = {"scenes": None, "folder": folders, "class_names": class_names, "channels": 3}
    return {**data, "size": [32, 32], "verify": True, **changes}


@pytest.fixture
def folder(tmp_path, experiment):
    """The root of a whole folder, and a function that reads it with settings of its own."""
    folders = write_folder(tmp_path / "data")

    def read(**changes):
        made = experiment(segmentation={"data": of_folder(folders, **changes)})
        return read_folder(made.segmentation.data)

    return tmp_path / "data", read


def test_images_and_masks_are_matched_by_their_paths(folder):
    _, read = folder
    examples, said = read()
    names = [example.name for example in examples["test"]]
    assert names == ["0.png", "2.png", "3.png", "sub/1.png"]
    assert all(example.image.stem == example.mask.stem for example in examples["train"])
    assert said == []


def overwrite(root, name, values, mode=None):
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(root / name)


BROKEN = {
    "other size": (
        lambda root: overwrite(root, "train/masks/0.png", np.zeros((31, 40))),
        ["train/masks/0.png has 40×31 pixels", "train/images/0.jpg", "40×30"],
    ),
    "unknown index": (
        lambda root: overwrite(root, "test/masks/2.png", np.full((32, 32), 3)),
        ["test/masks/2.png holds 3, which is the index of no class", "0 to 2", "255"],
    ),
    "unknown indices": (
        lambda root: overwrite(root, "test/masks/2.png", np.arange(1024).reshape(32, 32) % 256),
        ["test/masks/2.png holds 3, 4, 5, 6, 7 and 247 more, which are indices of no class"],
    ),
    "colours": (
        lambda root: overwrite(root, "train/masks/3.png", np.zeros((23, 17)), "RGB"),
        ["train/masks/3.png is an image of mode RGB, and no index mask"],
    ),
    "no image": (
        lambda root: (root / "train/images/sub/1.jpg").unlink(),
        ["train/masks/sub/1.png has no image; expected", "train/images/sub/1.*"],
    ),
    "no mask": (
        lambda root: (root / "test/masks/0.png").unlink(),
        ["test/images/0.jpg has no mask; expected", "test/masks/0.png"],
    ),
    "a name that is not UTF-8": (
        lambda root: (root / "test/masks/0.png").rename(root / "test/masks/caf\udce9.png"),
        ["caf\\xe9.png: its name is not UTF-8; rename it"],
    ),
    "unreadable mask": (
        lambda root: (root / "train/masks/2.png").write_bytes(b"no image"),
        ["train/masks/2.png cannot be read as a mask"],
    ),
    "mask that is cut off": (
        lambda root: (root / "train/masks/0.png").write_bytes(
            (root / "train/masks/0.png").read_bytes()[:90]
        ),
        ["train/masks/0.png cannot be read as a mask"],
    ),
    "unreadable image": (
        lambda root: (root / "train/images/2.jpg").write_bytes(b"no image"),
        ["train/images/2.jpg cannot be read as an image"],
    ),
    "two images of one name": (
        lambda root: overwrite(root, "test/images/0.png", np.zeros((30, 40))),
        ["test/images/0.png", "test/images/0.jpg", "have one name"],
    ),
    "no folder": (
        lambda root: (root / "test/masks").rename(root / "elsewhere"),
        ["segmentation.data.folder.test.masks: no such folder"],
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named(folder, kind):
    root, read = folder
    damage, words = BROKEN[kind]
    damage(root)
    with pytest.raises(UserError) as error:
        read()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_all_that_is_broken_is_told_at_once(folder):
    root, read = folder
    kinds = ("other size", "unknown index", "colours", "no image", "no mask", "unreadable image")
    for kind in kinds:
        BROKEN[kind][0](root)
    with pytest.raises(UserError) as error:
        read()
    assert str(error.value).startswith(f"{len(kinds)} things are wrong")
    for kind in kinds:
        assert all(word in str(error.value) for word in BROKEN[kind][1]), kind


def test_a_mask_of_another_size_is_found_without_decoding(folder, monkeypatch):
    monkeypatch.setattr(masks_module, "READ_FIRST", 1)
    root, read = folder
    BROKEN["other size"][0](root)
    BROKEN["unknown index"][0](root)  # which only decoding finds
    with pytest.raises(UserError, match=r"train/masks/0.png has 40×31 pixels") as error:
        read(verify=False)
    assert "2.png" not in str(error.value)


def test_the_first_masks_are_read_even_where_not_all_are(folder):
    root, read = folder
    BROKEN["unknown index"][0](root)
    with pytest.raises(UserError, match=r"test/masks/2.png holds 3"):
        read(verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_a_split_without_a_class_is_refused(folder, verify, monkeypatch):
    monkeypatch.setattr(masks_module, "READ_FIRST", 1)
    root, read = folder
    for name, (width, height) in zip(("0", "sub/1", "2", "3"), SIZES, strict=True):
        overwrite(root, f"test/masks/{name}.png", np.full((height, width), IGNORED))
    with pytest.raises(UserError, match=r"folder.test: no mask has a pixel of a class"):
        read(verify=verify)


def test_masks_are_read_until_one_has_a_class(folder, monkeypatch):
    monkeypatch.setattr(masks_module, "READ_FIRST", 1)
    root, read = folder
    overwrite(root, "test/masks/0.png", np.full((30, 40), IGNORED))
    BROKEN["unknown index"][0](root)
    with pytest.raises(UserError, match=r"test/masks/2.png holds 3"):
        read(verify=False)
    overwrite(root, "test/masks/2.png", np.zeros((32, 32)))
    assert len(read(verify=False)[0]["test"]) == len(SIZES)


def test_copies_between_the_splits_are_told(folder):
    root, read = folder
    (root / "test/images/0.jpg").write_bytes((root / "train/images/0.jpg").read_bytes())
    _, said = read()
    assert any("1 test image(s) are training images too" in line for line in said)


def test_a_file_that_is_no_mask_is_passed_by_and_told_of(folder):
    root, read = folder
    (root / "train/masks/readme.txt").write_text("", encoding="utf-8")
    _, said = read()
    assert any("ending in .txt passed by" in line for line in said)


def test_zero_is_ignored_where_it_is_no_class(tmp_path):
    overwrite(tmp_path, "mask.png", [[0, 1, 150, 255]])
    found = read_mask(tmp_path / "mask.png", lookup(150, ignore_zero=True))
    assert found.tolist() == [[IGNORED, 0, 149, IGNORED]]
    with pytest.raises(UserError, match=r"holds 150, .*classes are 0 to 149"):
        read_mask(tmp_path / "mask.png", lookup(150, ignore_zero=False))


@pytest.mark.parametrize(("classes", "ignore_zero"), [(255, False), (254, True)])
def test_255_is_no_class_of_as_many_as_there_can_be(classes, ignore_zero):
    table = lookup(classes, ignore_zero)
    assert table[IGNORED] == IGNORED
    assert set(table.tolist()) == {*range(classes), IGNORED}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("has_palette", [False, True])
def test_few_bits_are_read_as_the_indices_that_they_are(tmp_path, bits, has_palette):
    """PIL multiplies grey values of 2 and 4 bits; the file is written chunk by chunk here."""
    values = np.arange(8) % min(2**bits, 3)
    digits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
    row = np.packbits(digits.ravel())
    header = struct.pack(">IIBBBBB", 8, 1, bits, 3 if has_palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    chunks += [(b"PLTE", bytes(range(3 * 2**bits)) if bits < 8 else bytes(768))] * has_palette
    chunks += [(b"IDAT", zlib.compress(b"\0" + row.tobytes())), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    (tmp_path / "mask.png").write_bytes(content)
    assert read_mask(tmp_path / "mask.png", lookup(3, False)).tolist() == [values.tolist()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["none"]}, ["segmentation.baseline", "'soft_kd'"]),
        ({"pair": "deit"}, ["segmentation.pair", "'deit'"]),
        ({"seeds": [1]}, ["segmentation.seeds", "at least two"]),
        ({"data": {"scenes": None}}, ["segmentation.data", "neither"]),
        ({"data": {"classes": 3}}, ["segmentation.data", "scenes have the classes"]),
        ({"data": of_folder(FOLDERS, None)}, ["segmentation.data", "class_names", "neither"]),
        ({"data": of_folder(FOLDERS, classes=3)}, ["segmentation.data", "class_names", "both"]),
        ({"data": of_folder(FOLDERS, ["a", "a"])}, ["segmentation.data", "class_names"]),
        ({"data": of_folder({"train": PART})}, ["segmentation.data.folder", "test"]),
        ({"data": {"classes": 300}}, ["segmentation.data.classes must lie in [2, 255]"]),
        (
            {"data": of_folder(FOLDERS, None, classes=255, ignore_zero=True)},
            ["segmentation.data", "with ignore_zero", "got 255 classes, give at most 254"],
        ),
        (
            {"pair": "deit-cait", "methods": ["soft_kd", "lift"], "baseline": "lift"},
            ["segmentation.baseline", "'lift' trains the pair's lifted_student"],
        ),
        ({"fine_tuned": {"decoder": {"scales": [1, 2]}}}, ["scales must be powers of 2"]),
        ({"fine_tuned": {"decoder": {"scales": [3, 1]}}}, ["scales must be powers of 2"]),
        ({"fine_tuned": {"decoder": {"pools": []}}}, ["segmentation.fine_tuned.decoder.pools"]),
        ({"fine_tuned": {"horizontal_flip": 2}}, ["segmentation.fine_tuned.horizontal_flip"]),
        (
            {"frozen": {"epochs": 1, "schedule": {"warmup_epochs": 2}}},
            ["epochs 2 is longer"],
        ),
        ({"frozen": {"optimizer": {"learning_rate": -1}}}, ["frozen.optimizer.learning_rate"]),
        ({"fine_tuned": {"decoder": {"blocks": 0}}}, ["segmentation.fine_tuned.decoder.blocks"]),
    ],
)
def test_settings_that_no_run_can_use_are_refused(changes, words):
    with pytest.raises(UserError) as error:
        resolve({"scale": "smoke", "segmentation": changes})
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"segmentation": {"data": {"scenes": {"validation": None}}}}, "no such images"),
        ({"data": {"validation": 0}}, "data.validation is 0"),
        ({"segmentation": {"data": of_folder(FOLDERS)}}, "nothing is held out from a folder"),
    ],
)
def test_validation_scenes_that_cannot_be_made_are_refused(changes, words):
    others = dict.fromkeys(("detection", "detection_rehearsal", "transfer"))
    with pytest.raises(UserError, match=words):
        resolve({"scale": "smoke", "evaluation_split": "validation", **others, **changes})


# ---- scores ----------------------------------------------------------------------------------


def drawn(classes=4, count=5, seed=0):
    """Masks of other sizes, of which the last class is in none, and predictions of them."""
    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        shape = (5 + number, 9 - number)
        truth = generator.integers(0, classes - 1, shape)
        truth[generator.random(shape) < 0.2] = IGNORED
        pairs.append((truth, generator.integers(0, classes - 1, shape)))
    return pairs


def matrix_of(pairs, classes=4):
    return sum(confusion(truth, predicted, classes) for truth, predicted in pairs)


def test_miou_is_scikit_learns_over_all_pixels_at_once():
    pairs = drawn()
    truth = np.concatenate([truth.ravel() for truth, _ in pairs])
    predicted = np.concatenate([predicted.ravel() for _, predicted in pairs])
    counted = truth != IGNORED
    expected = 100 * jaccard_score(truth[counted], predicted[counted], average=None)
    found = scores(matrix_of(pairs))
    assert found["iou"][:3] == pytest.approx(expected.tolist())
    assert found["miou"] == pytest.approx(expected.mean())
    assert found["pixel_accuracy"] == pytest.approx(100 * (truth == predicted)[counted].mean())
    assert sum(found["pixels"]) == counted.sum()


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_only_predicted_counts_as_zero():
    pairs = drawn()
    without = scores(matrix_of(pairs))
    assert without["iou"][3] is None
    truth, predicted = pairs[0]
    predicted = predicted.copy()
    predicted[np.nonzero(truth != IGNORED)[0][0], np.nonzero(truth != IGNORED)[1][0]] = 3
    with_it = scores(matrix_of([(truth, predicted), *pairs[1:]]))
    assert with_it["iou"][3] == 0
    assert with_it["miou"] == pytest.approx(sum(with_it["iou"]) / 4)


def test_ignored_pixels_count_for_nothing():
    truth, predicted = drawn(count=1)[0]
    other = np.where(truth == IGNORED, 3, predicted)
    assert (confusion(truth, predicted, 4) == confusion(truth, other, 4)).all()


# ---- images, heads and decoders --------------------------------------------------------------


@pytest.fixture
def examples(folder):
    _, read = folder
    own = read()[0]["train"]
    return Examples(own, lookup(3, False), 3, [32, 24], [0.5] * 3, [0.25] * 3)


def test_an_image_is_fitted_and_what_is_beside_it_is_of_no_class(examples):
    for position, example in enumerate(examples.examples):
        pixels, classes = examples[position, None]
        assert pixels.shape == (3, 24, 32) and classes.shape == (24, 32)
        width, height = fit(Image.open(example.image).size, [32, 24])
        assert (width, height) != (0, 0) and (width == 32 or height == 24)
        assert (classes[height:] == IGNORED).all() and (classes[:, width:] == IGNORED).all()
        assert (pixels[:, height:] == 0).all() and (pixels[:, :, width:] == 0).all()
        assert (classes[:height, :width] != IGNORED).any()


def test_what_is_drawn_follows_from_the_seed_and_moves_image_and_mask_alike(examples, experiment):
    """An image that is its own mask stays so."""
    examples.augmentation = experiment().segmentation.fine_tuned
    first, again, other = (examples[0, seed] for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    squares = np.zeros((30, 40), dtype=np.uint8)
    squares[:15, 20:] = 1
    image = Image.fromarray(255 * squares).convert("RGB")
    examples.image, examples.classes = lambda _: image, lambda _: squares
    for seed in range(8):
        pixels, classes = examples[0, seed]
        shown = classes != IGNORED
        agree = ((pixels[0] > 0) == (classes == 1))[shown].float().mean()
        assert agree > 0.9  # but at edges, where pixels are mixed and classes are not


@pytest.mark.parametrize("size", [(14, 14), (13, 15), (28, 21)])
def test_logits_are_enlarged_over_their_own_cells(size):
    cells = [-(-side // 7) for side in size]
    logits = torch.arange(cells[0]).float()[:, None].expand(cells)[None, None]
    found = enlarge(logits, 7, size)
    assert found.shape == (1, 1, *size)
    assert found[0, 0, 3, 3] == pytest.approx(0, abs=1e-6)  # the middle of the first cell
    assert found[0, 0, 10, 3] == pytest.approx(1)


VIT = {"patch_size": 7, "embed_dim": 24, "depth": 3, "num_heads": 2}
SWIN = {"patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(
    ("name", "arguments", "side"),
    [
        ("deit_tiny_patch16_224", VIT, 28),
        ("deit_tiny_distilled_patch16_224", VIT, 28),
        ("swin_tiny_patch4_window7_224", SWIN, 32),
    ],
)
def test_plain_and_hierarchical_backbones_give_logits_at_every_pixel(name, arguments, side, blocks):
    model = Model(name=name, arguments=arguments)
    network = open_network(model, (1, side, side), None, 3)
    settings = Decoder(channels=8, blocks=blocks, scales=[2, 1, 0.5], pools=[1, 2])
    segmenter = Segmenter(network, 5, settings)
    for size in ((40, 52), (side, side)):
        logits = segmenter(torch.rand(2, 3, *size))
        assert logits.shape == (2, 5, *size)
    logits.sum().backward()
    assert all(p.grad is not None for _, p in segmenter.named_parameters() if p.requires_grad)
    assert all(f"network.{own}" in segmenter.no_weight_decay() for own in network.no_weight_decay())


def test_the_decoder_takes_levels_of_odd_sizes():
    decoder = UPerDecoder([4, 6, 8], 3, channels=8, pools=[1, 2])
    levels = [
        torch.rand(1, width, *size) for width, size in ((4, (9, 7)), (6, (5, 4)), (8, (3, 2)))
    ]
    assert decoder(levels).shape == (1, 3, 9, 7)


def test_the_linear_head_is_batch_norm_and_one_layer():
    head = LinearHead(6, 4, 2, (8, 8))
    assert {name for name, _ in head.named_parameters()} == {
        *("norm.weight", "norm.bias", "classifier.weight", "classifier.bias")
    }
    assert head(torch.rand(3, 6, 4, 4)).shape == (3, 4, 8, 8)


def test_colours_are_one_a_class_and_white_is_none():
    assert len(set(colours(len(MUTED)))) == len(MUTED)
    assert len(np.unique(colours(150), axis=0)) == 150
    picture = painted(np.array([[0, 10, IGNORED]]), colours(11))
    assert (picture[0, 2] == 1).all() and (picture[0, 0] != picture[0, 1]).any()


def test_nothing_of_detection_is_needed():
    """Whose packages may not be installed."""
    found = {
        name
        for folder in ("segmentation", "scenes", "backbones.py", "dense.py")
        for path in (ROOT / "benchmarks").glob(f"{folder}/*.py" if "." not in folder else folder)
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [own.name for own in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert "benchmarks.scenes.compose" in found
    foreign = ("benchmarks.detection", "mmdet", "mmengine", "mmcv", "pycocotools", "cv2")
    assert not [name for name in found if name.startswith(foreign)]


# ---- the study -------------------------------------------------------------------------------


def study_in(folder, **changes):
    own = {"pair": "untrained-teacher", "epochs": 1, "methods": METHODS, **changes}
    return resolve({"scale": "smoke", "results": str(folder), "segmentation": own})


def test_every_backbone_is_the_student_that_its_method_trains(tmp_path):
    """Whose weights, as training leaves them, go into it."""
    methods = ["soft_kd", "hard_kd_token", "lift", "wide_last"]
    made = study_in(tmp_path, pair="deit-cait", methods=methods)
    own = made.studies["segmentation"]
    pair = made.pairs["deit-cait"]
    networks = {
        **dict.fromkeys((UNTRAINED, PATCH_EMBEDDING, "soft_kd"), pair.student),
        "hard_kd_token": pair.distilled_student,
        "lift": pair.lifted_student,
        "wide_last": pair.widened_student,
    }
    assert set(networks) == set(own.backbones)
    for method, model in networks.items():
        network = create_model(model, made.data.image_shape, 10)
        save_weights(network, own.weights(method, 0)[0])
        cell = SegmenterCell(made, FROZEN, method, 0)
        assert cell.model == model
        if method != PATCH_EMBEDDING:  # of which one part is another's
            frozen, _ = training_module.build(cell, 3, torch.device("cpu"))
            state = network.state_dict()
            assert all(torch.equal(v, state[name]) for name, v in frozen.state_dict().items())
            assert cell.identity("data")["student"] == to_plain(model)


def test_every_network_is_tried_before_compute(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(check_module, "_try", lambda *given: tried.append(given[1:3]))
    study_in(tmp_path, pair="deit-cait", methods=["soft_kd", "fitnet", "lift"]).studies[
        "segmentation"
    ].preflight()
    assert tried == [(protocol, own) for protocol in PROTOCOLS for own in (UNTRAINED, "lift")]


def trained_on(made, protocol, count):
    """The training of a segmenter on so many images of noise."""
    cell = SegmenterCell(made, protocol, UNTRAINED, 0)
    (made.directory / "noise").mkdir(parents=True)
    examples = check_module._noise(cell, 3, made.directory / "noise")
    examples.examples = [
        replace(example, name=f"{number}.png")
        for number, example in enumerate(examples.examples * count)
    ]
    model, channels = cell.model, cell.study.settings.data.channels
    network = open_network(model, made.data.image_shape, None, channels)
    frozen, trained = training_module.with_head(cell, network, 3, torch.device("cpu"))
    digest, device = "digest", torch.device("cpu")
    return training_module.Training(cell, frozen, trained, examples, digest, device)


def test_frozen_tokens_that_the_disk_has_no_room_for_are_said(tiny_disk):
    """A page of a sparse file that finds no room kills the process by SIGBUS."""
    made = study_in(tiny_disk)
    made = made.replaced(machine=made.machine.replaced(workers=0))
    training = trained_on(made, FROZEN, 50)
    with pytest.raises(UserError, match=r"\.npy: No space left on the disk"):
        training._frozen_tokens()


def test_a_checkpoint_that_the_disk_has_no_room_for_is_said(tmp_path, monkeypatch):
    made = study_in(tmp_path)
    monkeypatch.setattr(train_module, "read_found", lambda study: {})

    def full(*given):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(train_module, "train", full)
    with pytest.raises(UserError, match=rf"{UNTRAINED}-seed-0.pt: No space left on the disk"):
        run(made, UNTRAINED, 0)


def test_a_test_set_without_a_class_is_refused(tmp_path):
    made = study_in(tmp_path)
    made = made.replaced(machine=made.machine.replaced(workers=0))
    training = trained_on(made, FROZEN, 2)
    training.examples.classes = lambda _: np.full((32, 32), IGNORED, dtype=np.uint8)
    given = (training.cell, training.frozen, training.trained, training.examples, 3)
    with pytest.raises(UserError, match="no mask of the test images has a pixel of a class"):
        measure(*given, tmp_path / "predictions.zip")


def test_a_folder_that_has_changed_since_it_was_prepared_is_refused(tmp_path, looks_each_time):
    folders = write_folder(tmp_path / "data")
    own = study_in(tmp_path / "results", data=of_folder(folders)).studies["segmentation"]
    write_text(own.found, json.dumps(take_folder(own)))
    assert read_found(own)["classes"] == NAMES
    overwrite(tmp_path / "data", "train/masks/2.png", np.ones((32, 32)))
    with pytest.raises(UserError, match=r"data.json is of other images .* prepare makes it anew"):
        read_found(own)


def test_runs_are_compared_by_a_column_of_theirs(tmp_path):
    own = study_in(tmp_path).studies["segmentation"]
    run_record = {
        "result": {"miou": 1.0, "pixel_accuracy": 2.0},
        "configuration": {"student_sha256": ""},
        "environment": {"git_commit": ""},
        **{"wall_seconds": 0.0, "fingerprint": ""},
    }
    rows = table._seed_rows(own, FROZEN, {own.settings.baseline: {0: run_record}})
    assert own.measured in rows[0] and "protocol" in own.row_names


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Students of one epoch, whose teacher knows nothing, carried through the whole study."""
    made = study_in(tmp_path_factory.mktemp("study"))
    initialise(made, "untrained-teacher")
    prepare(made)
    for seed in made.seeds:
        initialise_student(made, seed)
        train_students(*student_setting(made, "untrained-teacher", "A", 1, METHODS, seed))
        for method in made.studies["segmentation"].backbones:
            run(made, method, seed)
    made.studies["segmentation"].write()
    return made.studies["segmentation"]


@pytest.mark.slow
def test_choices_are_made_on_scenes_of_held_out_images(tmp_path):
    """On photographs of their own, and with items of the validation split alone."""
    others = dict.fromkeys(("detection", "detection_rehearsal", "transfer"))
    made = resolve({"scale": "smoke", "results": str(tmp_path), **others})
    for split in ("validation", "test"):
        own = made.replaced(evaluation_split=split, name=split).studies["segmentation"]
        assert own.preflight()["splits"] == {"train": 8, split: 4}
        prepare(own.experiment)
        found = read_found(own)
        assert (
            set(found["examples"])
            == {path.name for path in own.data_folder.iterdir()} - {own.found.name}
            == {"train", split}
        )
        photographs = getattr(own.settings.data.scenes.photographs, split)
        assert set(found["sources_sha256"][split]["photographs"]) == set(photographs)
        items = getattr(load_splits(made.data), split)
        composer = Composer(
            own.settings.data.scenes,
            split,
            items,
            channels=1,
            interpolation=made.data.interpolation,
            where="scenes",
        )
        image = open_split(own, found, split).image(0)
        assert (np.asarray(image) == composer.compose(0).image).all()


@pytest.mark.slow
def test_blocks_that_the_student_does_not_have_are_refused_before_compute(tmp_path):
    own = study_in(tmp_path, fine_tuned={"decoder": {"blocks": 9}}).studies["segmentation"]
    with pytest.raises(UserError, match=r"fine_tuned: decoder.blocks must be .* 1 to 4.*got 9"):
        own.preflight()


def predictions_of(directory):
    with zipfile.ZipFile(directory / "predictions.zip") as archive:
        return {
            name: np.asarray(Image.open(io.BytesIO(archive.read(name))))
            for name in archive.namelist()
        }


def by_sets(pairs, classes):
    """mIoU by sets of pixels, class by class: no confusion matrix."""
    ious = []
    for number in classes:
        both = either = 0
        for truth, predicted in pairs:
            there, taken = truth == number, (predicted == number) & (truth != IGNORED)
            both += (there & taken).sum()
            either += (there | taken).sum()
        if either:
            ious.append(both / either)
    return 100 * float(np.mean(ious))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", [UNTRAINED, PATCH_EMBEDDING, *METHODS])
def test_miou_is_that_of_the_dumped_predictions(study, protocol, method):
    directory = study.directory(protocol, method, 1)
    record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    masks = study.data_folder / "test" / "masks"
    pairs = [
        (np.asarray(Image.open(masks / name)), predicted)
        for name, predicted in predictions_of(directory).items()
    ]
    assert len(pairs) == study.settings.data.scenes.test
    assert record["result"]["miou"] == pytest.approx(by_sets(pairs, range(11)))


@pytest.mark.slow
def test_the_table_has_every_backbone_by_both_protocols(study):
    folder = study.experiment.directory
    rows = pd.read_csv(folder / "segmentation.csv")
    for protocol in PROTOCOLS:
        own = rows[rows["protocol"] == protocol]
        assert list(own["method"]) == [UNTRAINED, PATCH_EMBEDDING, *METHODS]
    assert rows["miou_mean"].between(0, 100).all()
    family = rows[rows["p_holm"].notna()]
    assert set(family["method"]) == {"manifold"} and family["gain_detectable"].notna().all()
    assert rows[rows["method"].isin(CONTROLS)]["gain_mean"].notna().all()
    classes = pd.read_csv(folder / "segmentation_classes.csv")
    assert list(classes["class"].unique()) == ["background", *map(str, range(10))]
    text = (folder / "segmentation.md").read_text(encoding="utf-8")
    assert "left out of the mean" in text and "least gain that 80 %" in text
    for path in study.files():
        assert path.stat().st_size, path


@pytest.mark.slow
def test_new_layers_start_alike_on_every_backbone_and_controls_are_what_they_say(study):
    found, states = read_found(study), {}
    for method in study.backbones:
        cell = SegmenterCell(study.experiment, "fine-tuned", method, 0)
        _, trained = training_module.build(cell, len(found["classes"]), torch.device("cpu"))
        states[method] = trained.state_dict()
    fresh = load_file(study.untrained_student(0))
    student = load_file(study.weights("soft_kd", 0)[0])
    for name, value in states[UNTRAINED].items():
        if not name.startswith("network."):
            assert all(torch.equal(value, own[name]) for own in states.values()), name
            continue
        own = name.removeprefix("network.")
        assert torch.equal(value, fresh[own])
        assert torch.equal(states["soft_kd"][name], student[own])
        of = student if own.startswith("patch_embed.") else fresh
        assert torch.equal(states[PATCH_EMBEDDING][name], of[own])
    assert not torch.equal(fresh["patch_embed.proj.weight"], student["patch_embed.proj.weight"])


@pytest.mark.slow
def test_frozen_weights_stay_and_fine_tuned_ones_move(study):
    student = load_file(study.weights("manifold", 0)[0])
    head = load_file(study.directory(FROZEN, "manifold", 0) / "segmenter.safetensors")
    assert not any(name.startswith("network.") for name in head)
    tuned = load_file(study.directory("fine-tuned", "manifold", 0) / "segmenter.safetensors")
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(tuned[f"network.{name}"], student[name])


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_killed_training_goes_on_to_the_same_bytes(study, protocol, monkeypatch, capsys):
    """Killed behind its third step; finished cells are left alone."""
    directory = study.directory(protocol, "manifold", 0)
    names = ("segmenter.safetensors", "predictions.zip", "metrics.csv")
    before = {name: sha256(directory / name) for name in names}
    (directory / "run.json").unlink()
    every_step = study.experiment.machine.replaced(checkpoint_seconds=0)
    made = study.experiment.replaced(machine=every_step)
    saved = training_module.Training.save

    def save_and_die(self):
        saved(self)
        if self.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_module.Training, "save", save_and_die)
        run(made, "manifold", 0)
    assert not (directory / "run.json").exists()
    capsys.readouterr()
    run(study.experiment, "manifold", 0)
    said = capsys.readouterr().err
    assert "at step 3" in said and said.count("is complete") == 1
    assert {name: sha256(directory / name) for name in names} == before
    assert not list((study.experiment.directory / "state/segmentation").iterdir())


@pytest.mark.slow
def test_a_record_of_other_data_is_refused(study):
    path = study.directory(FROZEN, "soft_kd", 0) / "run.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(text) | {"fingerprint": "other"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"soft_kd/seed-0/run.json is of another"):
        table.build(study)
    path.write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [False, True])
def test_a_folder_of_other_classes_sizes_and_ignored_pixels(tmp_path, zero):
    folders = write_folder(tmp_path / "data", zero=zero)
    data = of_folder(folders, ignore_zero=zero)
    batches = {"frozen": {"batch_size": 2}, "fine_tuned": {"batch_size": 2}}
    made = study_in(tmp_path / "results", data=data, **batches)
    own = made.studies["segmentation"]
    assert own.preflight() == {"splits": {"train": 4, "test": 4}, "classes": NAMES}
    prepare(made)
    initialise_student(made, 0)
    run(made, UNTRAINED, 0)
    test = open_split(own, read_found(own), "test")
    for protocol in PROTOCOLS:
        directory = own.directory(protocol, UNTRAINED, 0)
        record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        predicted = predictions_of(directory)
        pairs = []
        for position, example in enumerate(test.examples):
            mask = np.asarray(Image.open(example.mask))
            assert predicted[example.name].shape == mask.shape
            assert set(np.unique(predicted[example.name])) <= {own + zero for own in range(3)}
            truth = np.where((mask == 0) & zero, IGNORED, mask)
            pairs.append((truth, predicted[example.name]))
            assert (test.classes(position) == IGNORED).sum() == (truth == IGNORED).sum()
        numbers = [number + int(zero) for number in range(3)]
        assert record["result"]["miou"] == pytest.approx(by_sets(pairs, numbers))
        assert record["classes"] == NAMES


def test_another_mask_of_the_same_size_changes_what_is_planned(tmp_path, looks_each_time):
    folders = write_folder(tmp_path / "data")
    batches = {"frozen": {"batch_size": 2}, "fine_tuned": {"batch_size": 2}}
    made = study_in(tmp_path / "results", data=of_folder(folders), **batches)
    own = made.studies["segmentation"]
    before = own.folder_digest()
    overwrite(tmp_path / "data", "train/masks/2.png", np.ones((32, 32)))
    assert own.folder_digest() not in (None, before)


@pytest.mark.slow
def test_batches_that_no_epoch_fills_are_refused_before_compute(tmp_path):
    folders = write_folder(tmp_path / "data")
    own = study_in(tmp_path / "results", data=of_folder(folders)).studies["segmentation"]
    small = own.settings.frozen.replaced(batch_size=5)
    own.settings = own.settings.replaced(frozen=small)
    with pytest.raises(UserError, match=r"segmentation.frozen.batch_size: 4 training image"):
        own.preflight()
