"""Images and annotations of the detectors: scenes that are exact, and faults that are named."""

import itertools
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")
pytest.importorskip("skimage")

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from benchmarks.__main__ import main
from benchmarks.detection import data as prepared
from benchmarks.detection import prepare as prepare_module
from benchmarks.detection.annotations import read_folder
from benchmarks.detection.average_precision import average_precision
from benchmarks.detection.coco_files import OVERHANG_PIXELS, SHOWN_FAULTS
from benchmarks.detection.prepare import prepare
from benchmarks.detection.scenes import tight_box
from benchmarks.detection.settings import CocoFolder, DetectionData, Ignored
from benchmarks.scenes.compose import Composer, find_photographs
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import fingerprint, to_plain, to_words
from manifold.training.data import load_splits

# of pycocotools, about NumPy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COUNTS = {"train": 12, "validation": 3, "test": 6}
SCENES = {"size": [40, 32], "items": [3, 5], "sides": [8, 16], **COUNTS}


@pytest.fixture
def composer(experiment):
    """A composer of a split of the digits, with what is given changed."""

    def make(split="train", masks=True, channels=1, **changes):
        made = experiment(
            detection={
                "data": {"masks": masks, "channels": channels, "scenes": {**SCENES, **changes}}
            }
        )
        images = getattr(load_splits(made.data), split)
        return Composer(
            made.detection.data.scenes,
            split,
            images,
            channels=channels,
            interpolation=made.data.interpolation,
            where="detection.data.scenes",
        )

    return make


# ---- scenes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("foreground", [0.1, None])
def test_every_changed_pixel_belongs_to_one_mask_and_every_mask_shows_its_item(
    composer, channels, foreground
):
    made = composer(channels=channels, foreground=foreground, least_visible=0.3)
    covered = 0
    for index in range(12):
        scene = made.compose(index)
        owners = np.sum(scene.masks, axis=0)
        assert owners.max() == 1
        changed = (scene.image != scene.background).reshape(*owners.shape, -1).any(axis=-1)
        assert not (changed & (owners == 0)).any()
        assert len(scene.masks) == len(scene.labels) == len(scene.items)
        assert 3 <= len(scene.items) <= 5
        for mask, label, item in zip(scene.masks, scene.labels, scene.items, strict=True):
            assert label == made.images.labels[made.images.indices[item]]
            covered += _hidden(made, scene, mask, item)
    assert covered > 0  # some items do lie over others


def _hidden(made, scene, mask, item):
    """Find the item's pixels in the scene, by trying all sizes and places; count hidden ones."""
    image = made.images.load(int(made.images.indices[item])).convert(made.mode)
    foreground = made.scenes.foreground
    left, top, width, height = tight_box(mask)
    for side in range(made.scenes.sides[0], made.scenes.sides[1] + 1):
        pixels = np.asarray(image.resize((side, side), made.resampling))
        grey = np.asarray(image.resize((side, side), made.resampling).convert("L"))
        whole = np.ones_like(grey, bool) if foreground is None else grey > 255 * foreground
        for y in range(max(0, top + height - side), min(top, mask.shape[0] - side) + 1):
            for x in range(max(0, left + width - side), min(left, mask.shape[1] - side) + 1):
                window = mask[y : y + side, x : x + side]
                shown = scene.image[y : y + side, x : x + side]
                if not (window & ~whole).any() and (shown[window] == pixels[window]).all():
                    share = window.sum() / whole.sum()
                    if share >= made.scenes.least_visible:
                        return int(whole.sum() - window.sum())
    raise AssertionError("no size and place of the item explains what its mask shows")


def test_an_items_pixels_outside_its_foreground_are_the_photographs(composer):
    scene = composer(items=[1, 1]).compose(0)
    (mask,) = scene.masks
    assert (scene.image[~mask] == scene.background[~mask]).all()
    assert scene.image[mask].min() > 255 * 0.1
    assert mask.sum() < np.prod(tight_box(mask)[2:])


def test_scenes_follow_from_seed_split_and_index_alone(composer):
    first, again, other = composer(), composer(train=500), composer(seed=1)
    for index in (3, 0):
        assert (first.compose(index).image == again.compose(index).image).all()
        assert (first.compose(index).image != other.compose(index).image).any()
    assert (first.compose(0).image != first.compose(1).image).any()
    assert composer("test").compose(0).items != first.compose(0).items


def test_a_photograph_is_dimmed_and_items_are_not(composer):
    bright, dim = (composer(brightness=b, items=[1, 1]).compose(2) for b in (1.0, 0.5))
    assert np.abs(bright.background / 2 - dim.background).max() <= 1
    assert (bright.image[bright.masks[0]] == dim.image[dim.masks[0]]).all()


def test_scenes_without_room_end_with_an_error(composer):
    made = composer(size=[16, 16], sides=[16, 16], least_visible=1.0, tries=5)
    with pytest.raises(UserError, match=r"item 2 of . of train scene 0 .* 5 tries"):
        made.compose(0)


def test_an_unknown_photograph_is_named():
    with pytest.raises(UserError, match=r"'mon.png'.*Did you mean 'moon.png'.*china.jpg"):
        find_photographs(["astronaut.png", "mon.png"], "scenes")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The smoke scale's scenes, written by the command."""
    results = tmp_path_factory.mktemp("results")
    detection = {"data": {"scenes": SCENES}}
    words = to_words({"scale": "smoke", "results": str(results), "detection": detection})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["benchmarks", "detection", "prepare", "--config", *words])
        main()
    return results / "smoke/detection/data"


def test_pycocotools_reads_what_is_written(data, capsys):
    for split, count in COUNTS.items():
        coco = COCO(data / f"{split}.json")
        assert len(coco.getImgIds()) == count
        assert [c["id"] for c in coco.loadCats(coco.getCatIds())] == list(range(1, 11))
        for image in coco.loadImgs(coco.getImgIds()):
            with Image.open(data / split / image["file_name"]) as picture:
                assert (picture.mode, *picture.size) == ("L", image["width"], image["height"])
            entries = coco.loadAnns(coco.getAnnIds([image["id"]]))
            masks = np.stack([coco.annToMask(entry) for entry in entries])
            assert masks.sum(axis=0).max() == 1
            for entry, mask in zip(entries, masks, strict=True):
                assert entry["area"] == mask.sum() > 0
                assert entry["iscrowd"] == 0
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert entry["bbox"] == box == coco_mask.toBbox(entry["segmentation"]).tolist()


def test_the_record_counts_and_names_the_sources(data):
    record = json.loads((data / "data.json").read_text(encoding="utf-8"))
    assert record["kind"] == "scenes"
    for split in COUNTS:
        content = json.loads((data / f"{split}.json").read_text(encoding="utf-8"))
        counted = record["splits"][split]
        assert counted["annotations"] == len(content["annotations"])
        assert sum(counted["annotations_per_class"].values()) == counted["annotations"]
        for name, digest in record["sources_sha256"][split]["photographs"].items():
            assert sha256(find_photographs([name], "scenes")[name]) == digest
    assert record["categories"] == [str(digit) for digit in range(10)]


def test_more_scenes_keep_the_first_and_leave_no_old_ones(experiment, data, tmp_path):
    def make(**changes):
        scenes = {**SCENES, **changes}
        made = experiment(name="smoke", detection={"data": {"scenes": scenes}})
        prepare(made)
        return made, prepared.read_record(made)["fingerprint"]

    _, same = make()
    made, more = make(train=14)
    assert (
        same == json.loads((data / "data.json").read_text(encoding="utf-8"))["fingerprint"] != more
    )
    first, longer = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (data / "train.json", prepared.annotation_file(made, "train"))
    )
    for key in ("images", "annotations"):
        assert longer[key][: len(first[key])] == first[key]
    for image in first["images"]:
        mine = prepared.image_folder(made, "train") / image["file_name"]
        assert mine.read_bytes() == (data / "train" / image["file_name"]).read_bytes()
    make(train=2)
    assert len(list(prepared.image_folder(made, "train").iterdir())) == 2
    assert [path.name for path in prepared.data_directory(made).parent.iterdir()] == ["data"]


@pytest.mark.parametrize("split", COUNTS)
def test_what_is_written_is_composed_of_the_splits_own_images(data, composer, split):
    made = composer(split)
    content = json.loads((data / f"{split}.json").read_text(encoding="utf-8"))
    for index, entry in enumerate(content["images"]):
        scene = made.compose(index)
        with Image.open(data / split / entry["file_name"]) as image:
            assert (np.asarray(image) == scene.image).all()
        own = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        assert [a["category_id"] - 1 for a in own] == scene.labels


def test_the_scenes_of_two_splits_share_neither_items_nor_photographs(composer, experiment):
    splits, own = load_splits(experiment().data), ("train", "validation", "test")
    items, photographs = {}, {}
    for split in own:
        made = composer(split)
        items[split] = {
            made.images.load(int(made.images.indices[item])).tobytes()
            for index in range(6)
            for item in made.compose(index).items
        }
        photographs[split] = getattr(made.scenes.photographs, split)
        assert len(made.photographs) == len(photographs[split])
        images = getattr(splits, split)
        assert items[split] <= {images.load(int(i)).tobytes() for i in images.indices}
    assert min(map(len, items.values())) > 10
    for one, other in itertools.combinations(own, 2):
        assert not items[one] & items[other]
        assert not set(photographs[one]) & set(photographs[other])


def test_a_failure_leaves_the_data_as_it_was(experiment):
    made = experiment(detection={"data": {"scenes": SCENES}})
    prepare(made)
    before = prepared.read_record(made)
    crowded = {**SCENES, "size": [16, 16], "least_visible": 1.0, "tries": 1}
    with pytest.raises(UserError, match="found no place"):
        prepare(experiment(detection={"data": {"scenes": crowded}}))
    assert prepared.read_record(made) == before


def test_what_has_not_been_prepared_is_said(experiment, monkeypatch):
    with pytest.raises(UserError, match=r"data.json is missing.*benchmarks.detection.prepare"):
        prepared.categories(experiment())
    assert "detection" not in experiment(detection=None).studies
    words = ["scale=smoke", "detection=null"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "detection", "prepare", "--config", *words])
    with pytest.raises(SystemExit, match="'detection' is no study of scale 'smoke'"):
        main()


# ---- a folder that nobody here made ----------------------------------------------------------

SIZES = {5: (30, 20), 8: (16, 24), 11: (21, 21)}  # width, height by image id
RUN_LENGTHS = {"size": [24, 16], "counts": [10, 4, 370]}


def annotation(number, image, **changes):
    entry = {"id": number, "image_id": image, "category_id": 7, "bbox": [2.5, 3, 8, 9.25]}
    polygon = [2.5, 3, 10.5, 3, 10.5, 12.25]
    return {**entry, "segmentation": [polygon], "area": 37.0, "iscrowd": 0, **changes}


def content(**changes):
    """Two categories with a gap in their ids, three images, the last one without annotations."""
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": size[0], "height": size[1]}
        for i, size in SIZES.items()
    ]
    annotations = [annotation(1, 5), annotation(4, 8, category_id=90), annotation(6, 8)]
    categories = [{"id": 7, "name": "kite"}, {"id": 90, "name": "oven"}]
    made = {"images": images, "annotations": annotations, "categories": categories}
    return {**made, **changes}


def with_annotation(**changes):
    """The content with the last annotation changed; a value of ... takes its key away."""
    entry = {key: v for key, v in annotation(6, 8, **changes).items() if v is not ...}
    return content(annotations=[*content()["annotations"][:2], entry])


def with_image(**changes):
    images = content()["images"]
    return content(images=[images[0], {**images[1], **changes}, images[2]])


@pytest.fixture
def folder(tmp_path):
    """Write training annotations (an object, or text) and good test annotations and images."""

    def write(first, other=None, /, **ignored):
        (tmp_path / "images").mkdir(exist_ok=True)
        for i, size in SIZES.items():
            Image.new("RGB", size, (200, 30, i)).save(tmp_path / "images" / f"{i}.jpg")
        (tmp_path / "images/notes.jpg").write_text("not an image", encoding="utf-8")
        for name, part in (("train", first), ("test", other or content())):
            text = part if isinstance(part, str | bytes) else json.dumps(part)
            (tmp_path / f"{name}.json").write_bytes(
                text if isinstance(text, bytes) else text.encode()
            )
        images = str(tmp_path / "images")
        return CocoFolder(
            train_images=images,
            train_annotations=str(tmp_path / "train.json"),
            test_images=images,
            test_annotations=str(tmp_path / "test.json"),
            ignored=Ignored(**ignored),
        )

    return write


BROKEN = {
    "an empty file": ("", ["train.json is empty"]),
    "no JSON": ('{"images": [],\n "annotations": [,]}', ["train.json is not JSON", "line 2"]),
    "cut off": (json.dumps(content())[:-40], ["not JSON", "line 1"]),
    "no object": ("[1, 2]", ["train.json must hold an object", "list"]),
    "a key is missing": (
        {"images": [], "annotations": []},
        ["train.json lacks categories", "images, annotations"],
    ),
    "no list": (content(images={}), ["'images' must be a list", "dict"]),
    "no images": (content(images=[]), ["'images' is empty"]),
    "no annotations": (content(annotations=[]), ["'annotations' is empty"]),
    "no categories": (content(categories=[]), ["'categories' is empty"]),
    "an entry is no object": (content(annotations=[3]), ["annotations[0] must be an object", "3"]),
    "an id twice": (
        content(annotations=[annotation(4, 5), annotation(4, 8)]),
        ["annotations[1]: id 4 is given twice"],
    ),
    "no id": (with_annotation(id=...), ["annotations[2]: id must be an integer", "None"]),
    "an image id twice": (with_image(id=5), ["images[1]: id 5 is given twice"]),
    "a category twice": (
        content(categories=[{"id": 7, "name": "kite"}, {"id": 90, "name": "kite"}]),
        ["category 90: name 'kite' is given twice"],
    ),
    "a category without a name": (
        content(categories=[{"id": 7, "name": "kite"}, {"id": 90}]),
        ["category 90: name must be text"],
    ),
    "an image is missing": (with_image(file_name="gone.jpg"), ["image 8: no file", "gone.jpg"]),
    "an image without a name": (with_image(file_name=None), ["image 8: file_name must be text"]),
    "an image without a size": (with_image(width=None), ["image 8 (8.jpg)", "positive integers"]),
    "an image that is none": (
        with_image(file_name="notes.jpg"),
        ["image 8", "notes.jpg cannot be read as an image"],
    ),
    "an image of another size": (
        with_image(width=17),
        ["image 8", "8.jpg is 16×24 pixels", "17×24"],
    ),
    "an unknown image": (with_annotation(image_id=99), ["annotation 6", "image_id 99"]),
    "an unknown category": (
        with_annotation(category_id=8),
        ["annotation 6 (8.jpg)", "category_id 8"],
    ),
    "no box": (with_annotation(bbox=...), ["annotation 6 (8.jpg)", "bbox", "four", "None"]),
    "a box of three": (with_annotation(bbox=[1, 2, 3]), ["annotation 6", "four finite numbers"]),
    "a box of text": (with_annotation(bbox=[1, 2, 3, "4"]), ["annotation 6", "'4'"]),
    "a box that is no number": (
        with_annotation(bbox=[1, 2, 3, float("nan")]),
        ["annotation 6", "finite", "nan"],
    ),
    "a box without height": (
        with_annotation(bbox=[1, 2, 3, 0.0]),
        ["annotation 6", "no area", "ignored"],
    ),
    "a box outside": (
        with_annotation(bbox=[2, 3, 16.5, 9]),
        ["annotation 6 (8.jpg)", "out of its image of 16×24", "two corners"],
    ),
    "a box above": (with_annotation(bbox=[2, -3, 5, 9]), ["annotation 6", "out of its image"]),
    "iscrowd": (with_annotation(iscrowd=2), ["annotation 6", "iscrowd must be 0 or 1", "2"]),
    "area": (with_annotation(area="big"), ["annotation 6", "area", "'big'"]),
    "no mask": (with_annotation(segmentation=...), ["annotation 6", "detection.data.masks=false"]),
    "an empty mask": (with_annotation(segmentation=[]), ["no segmentation", "masks=false"]),
    "a mask of another kind": (with_annotation(segmentation="x"), ["polygons or run lengths"]),
    "a line": (with_annotation(segmentation=[[1, 2, 3, 4]]), ["at least 6", "got 4"]),
    "half a corner": (with_annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), ["even", "got 7"]),
    "a flat polygon": (with_annotation(segmentation=[1, 2, 3, 4, 5, 6]), ["list of polygons"]),
    "a polygon far out": (
        with_annotation(segmentation=[[1e9, 2, 3, 4, 5, 6]]),
        ["reaches out to 1e+09", "pixels wide"],
    ),
    "a polygon elsewhere": (
        with_annotation(segmentation=[[500, 5, 600, 5, 600, 9]]),
        ["annotation 6", "outside its image"],
    ),
    "an image by a list": (with_annotation(image_id=[1]), ["annotation 6", "image_id [1]"]),
    "a list as an id": (with_annotation(id=[1]), ["[1]"]),
    "a number beyond all floats": (with_annotation(bbox=[10**400, 1, 2, 2]), ["finite numbers"]),
    "an id of 400 digits": (with_annotation(id="9" * 400), ["9999"]),
    "a corner of text": (with_annotation(segmentation=[[1, 2, 3, 4, 5, "6"]]), ["'6'"]),
    "run lengths of another size": (
        with_annotation(segmentation={**RUN_LENGTHS, "size": [16, 24]}),
        ["[16, 24]", "[height, width] is [24, 16]"],
    ),
    "run lengths that are too short": (
        with_annotation(segmentation={**RUN_LENGTHS, "counts": [10, 4, 36]}),
        ["height · width = 384"],
    ),
    "polygons of one point": (
        with_annotation(segmentation=[[3, 4, 3, 4, 3, 4], [5, 6, 5, 6, 5, 6]]),
        ["encloses no area", "one point or line"],
    ),
    "a polygon of one line": (
        with_annotation(segmentation=[[0.1, 0.1, 1.1, 1.1, 3.1, 3.1, 0.7, 0.7]]),
        ["encloses no area"],
    ),
    "run lengths of no pixel": (
        with_annotation(segmentation={**RUN_LENGTHS, "counts": [384]}),
        ["covers no pixel"],
    ),
    "run lengths that are no text of theirs": (
        with_annotation(segmentation={**RUN_LENGTHS, "counts": "p!"}),
        ["pycocotools' text", "'p!'"],
    ),
    "run lengths that break off": (
        with_annotation(segmentation={**RUN_LENGTHS, "counts": "o"}),
        ["pycocotools' text", "'o'"],
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_annotation_is_named(folder, fault):
    train, words = BROKEN[fault]
    with pytest.raises(UserError) as error:
        read_folder(folder(train), masks=True, verify=True)
    for word in ["train.json", *words]:
        assert word in str(error.value)


def test_a_missing_file_and_a_missing_folder_are_named(folder, tmp_path):
    good = folder(content())
    with pytest.raises(UserError, match=r"nowhere.json cannot be read \(No such file"):
        read_folder(CocoFolder(**{**vars(good), "test_annotations": "nowhere.json"}), True, True)
    with pytest.raises(UserError, match=r"test.json: 3 fault.*\n.*no file nowhere/5.jpg"):
        read_folder(CocoFolder(**{**vars(good), "test_images": "nowhere"}), True, True)


def test_of_many_faults_the_first_are_shown_and_all_are_counted(folder):
    entries = [annotation(i, 8, bbox=[0, 0, i, 0]) for i in range(SHOWN_FAULTS + 3)]
    with pytest.raises(UserError) as error:
        read_folder(folder(content(annotations=entries)), masks=True, verify=True)
    first, *lines = str(error.value).splitlines()
    assert first.endswith("8 fault(s):")
    assert [line.split()[1] for line in lines] == ["0", "1", "2", "3", "4", "3"]


def test_categories_must_be_those_of_training(folder):
    other = content(categories=[{"id": 7, "name": "kite"}, {"id": 90, "name": "stove"}])
    with pytest.raises(UserError, match=r"test.json.* 90 'stove'.*train.json.*id 90 is 'oven'"):
        read_folder(folder(content(), other), masks=True, verify=True)


def test_annotations_that_are_known_to_be_broken_are_left_out_of_the_split_that_is_named(folder):
    """Ids restart in each file: 6 of the test file is another annotation, and stays."""
    broken = with_annotation(bbox=[1, 2, 3, 0])
    contents, notes = read_folder(folder(broken, train=[6]), masks=True, verify=True)
    assert [line for line in notes if "1 annotation(s) left out, as" in line and "first: 6" in line]
    ids = {
        split: [entry["original_id"] for entry in contents[split]["annotations"]]
        for split in ("train", "test")
    }
    assert ids == {"train": [1, 4], "test": [1, 4, 6]}
    with pytest.raises(
        UserError, match=r"ignored.test: no annotation of .*test.json has the id 66"
    ):
        read_folder(folder(content(), test=[6, 66]), masks=True, verify=True)
    with pytest.raises(UserError, match=r"ignored.train leaves no annotation of .*train.json"):
        read_folder(folder(content(), train=[1, 4, 6]), masks=True, verify=True)


def test_what_is_allowed_passes_and_what_is_lacking_is_added(folder):
    mask = np.zeros((24, 16), np.uint8)
    mask[3:9, 2:11:2] = 1
    text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    entries = [
        annotation(1, 8, segmentation={"size": [24, 16], "counts": text}, area=...),
        annotation(2, 8, segmentation=RUN_LENGTHS, iscrowd=1, area=...),
        annotation(3, 8, segmentation=[[2, 3, 10, 3, 10, 12, 2, 12]], iscrowd=..., area=...),
        annotation(4, 8, bbox=[-OVERHANG_PIXELS, 0, 16 + 2 * OVERHANG_PIXELS, 24]),
    ]
    entries = [{key: v for key, v in entry.items() if v is not ...} for entry in entries]
    contents, notes = read_folder(folder(content(annotations=entries)), masks=True, verify=True)
    said = [line.partition(".json: ")[2] for line in notes]
    assert any(line.startswith("3 annotation(s) without area, which is computed;") for line in said)
    assert any(line.startswith("1 annotation(s) without iscrowd, taken as") for line in said)
    got = contents["train"]["annotations"]
    assert [entry["area"] for entry in got] == [mask.sum(), 4, 72, 37]
    assert [entry["iscrowd"] for entry in got] == [0, 1, 0, 0]


def test_run_lengths_of_pycocotools_pass_whatever_their_mask(folder):
    generator = np.random.default_rng(0)
    entries = []
    for number, share in enumerate((0.01, 0.5, 0.99, 1.0)):
        mask = np.asfortranarray(generator.random((24, 16)) < share, dtype=np.uint8)
        mask[0, 0] = number % 2
        counts = coco_mask.encode(mask)["counts"].decode()
        segmentation = {"size": [24, 16], "counts": counts}
        entries.append(annotation(number, 8, segmentation=segmentation, area=int(mask.sum())))
    made = folder(content(annotations=entries))
    contents, _ = read_folder(made, masks=True, verify=True)
    assert len(contents["train"]["annotations"]) == 4


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_a_photograph_that_its_exif_turns_is_as_large_as_it_is_shown(
    folder, tmp_path, suffix, verify
):
    made = folder(with_image(file_name=f"turned.{suffix}"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZES[8][::-1]).save(tmp_path / f"images/turned.{suffix}", exif=exif)
    read_folder(made, masks=True, verify=verify)


def test_what_the_reader_changes_or_refuses_is_said_before_any_training(folder, tmp_path):
    pixels = np.full(SIZES[8][::-1], 60000, np.uint16)
    made = folder(with_image(file_name="deep.png"))
    Image.fromarray(pixels).save(tmp_path / "images/deep.png")
    _, told = read_folder(made, masks=True, verify=True)
    assert any("1 image(s) of more than 8 bits a channel" in line for line in told)
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "images/deep.tiff")
    made = folder(with_image(file_name="deep.tiff"))
    with pytest.raises(UserError, match=r"image 8: .*deep.tiff holds floating-point values"):
        read_folder(made, masks=True, verify=True)


# ---- what people bring -----------------------------------------------------------------------


@pytest.fixture
def brought(folder, experiment):
    """Prepare a folder of boxes, and return the experiment."""

    def make(train, test=None, **data):
        given = to_plain(folder(train, test))
        own = {"scenes": None, "folder": given, "masks": False, "channels": 3, **data}
        made = experiment(detection={"data": own})
        prepare(made)
        return made

    return make


def read_prepared(made, split):
    return json.loads(prepared.annotation_file(made, split).read_text(encoding="utf-8"))


@pytest.mark.parametrize("first", [0, 1, 41])
def test_predictions_that_are_the_truth_get_100_whatever_the_ids(brought, tmp_path, first):
    """pycocotools takes an annotation 0 for one that nothing was matched with."""
    entries = [annotation(first + i, image) for i, image in enumerate((5, 8, 8, 11))]
    for place, entry in enumerate(entries):
        entry["bbox"] = [3 * place, 2, 8, 9]
    made = brought(content(), content(annotations=entries))
    truth, perfect = prepared.annotation_file(made, "test"), tmp_path / "perfect.json"
    found = [{**entry, "score": 0.9} for entry in read_prepared(made, "test")["annotations"]]
    perfect.write_text(json.dumps(found), encoding="utf-8")
    assert average_precision(truth, perfect, "bbox")["ap"] == pytest.approx(100)


def test_prepared_files_are_numbered_from_1_and_lead_back_to_the_users_ids(brought):
    given = content(annotations=[annotation("0", 5), annotation(9, 8.0, category_id=90)])
    made = read_prepared(brought(given, given), "test")
    for key, originals in (("images", [5, 8, 11]), ("annotations", ["0", 9])):
        assert [entry["id"] for entry in made[key]] == [*range(1, len(originals) + 1)]
        assert [entry["original_id"] for entry in made[key]] == originals
    assert [(e["id"], e["original_id"], e["name"]) for e in made["categories"]] == [
        (1, 7, "kite"),
        (2, 90, "oven"),
    ]
    assert [(e["image_id"], e["category_id"]) for e in made["annotations"]] == [(1, 1), (2, 2)]


KITE, OVEN = {"id": 7, "name": "kite"}, {"id": 90, "name": "oven"}


@pytest.mark.parametrize(
    ("categories", "told"),
    [
        ([OVEN, KITE], False),  # in another order
        ([{"id": 90, "name": "kite"}, {"id": 7, "name": "oven"}], True),  # with other ids
    ],
)
def test_classes_are_matched_by_their_names(brought, capsys, categories, told):
    test = content(categories=categories)
    names = {entry["id"]: entry["name"] for entry in categories}
    made = brought(content(), test)
    got = {split: read_prepared(made, split) for split in ("train", "test")}
    for split in got:
        found = [(entry["id"], entry["name"]) for entry in got[split]["categories"]]
        assert found == [(1, "kite"), (2, "oven")]
    for entry, before in zip(got["test"]["annotations"], test["annotations"], strict=True):
        assert entry["category_id"] == 1 + (names[before["category_id"]] == "oven")
    assert ("they are matched by their names" in capsys.readouterr().err) == told


@pytest.mark.parametrize("split", ["train", "test"])
def test_annotations_of_crowds_alone_are_refused(folder, split):
    """As VIA and others write them: nothing would be learnt, and no AP would be measured."""
    crowds = content(annotations=[{**e, "iscrowd": 1} for e in content()["annotations"]])
    parts = (crowds, content()) if split == "train" else (content(), crowds)
    with pytest.raises(UserError, match=rf"{split}.json: every annotation is of a crowd"):
        read_folder(folder(*parts), masks=False, verify=True)


def test_a_class_of_crowds_alone_is_told_of(folder):
    kite = content()["annotations"][0]
    crowds = [
        {**e, "iscrowd": 1} if e["category_id"] == kite["category_id"] else e
        for e in content()["annotations"]
    ]
    _, told = read_folder(folder(content(annotations=crowds)), masks=False, verify=True)
    assert "no detector learns it" in "".join(told)


def test_a_class_that_the_test_file_lacks_is_no_fault_and_one_that_training_lacks_is(folder):
    few = content(categories=[KITE], annotations=[annotation(1, 5)])
    contents, told = read_folder(folder(content(), few), masks=True, verify=True)
    assert [entry["name"] for entry in contents["test"]["categories"]] == ["kite", "oven"]
    assert "no annotation of oven: no AP is of it" in "".join(told)
    contents, told = read_folder(
        folder(few, content(annotations=[annotation(1, 5)])), masks=True, verify=True
    )
    assert [entry["name"] for entry in contents["test"]["categories"]] == ["kite"]
    assert "oven is left out" in "".join(told)
    misspelt = content(categories=[KITE, {"id": 91, "name": "ovn"}])
    misspelt["annotations"][1]["category_id"] = 91
    with pytest.raises(UserError, match=r"91 'ovn'.* Did you mean 'oven'"):
        read_folder(folder(content(), misspelt), masks=True, verify=True)


def test_the_root_of_roboflows_categories_is_no_class(folder):
    root = {"id": 0, "name": "things", "supercategory": "none"}
    own = [{**entry, "supercategory": "things"} for entry in (KITE, OVEN)]
    given = content(categories=[root, *own])
    contents, told = read_folder(folder(given, given), masks=True, verify=True)
    for split in ("train", "test"):
        categories = contents[split]["categories"]
        assert [(e["id"], e["name"]) for e in categories] == [(1, "kite"), (2, "oven")]
    assert "things is left out: the root" in "".join(told)
    annotated = content(categories=[root, *own], annotations=[annotation(1, 5, category_id=0)])
    contents, _ = read_folder(folder(annotated, given), masks=True, verify=True)
    assert contents["train"]["categories"][0]["name"] == "things"  # a class after all


def test_a_root_of_the_classs_own_name_is_left_out(folder):
    root = {"id": 0, "name": "kite", "supercategory": "none"}
    given = content(categories=[root, *({**e, "supercategory": "kite"} for e in (KITE, OVEN))])
    contents, told = read_folder(folder(given, given), masks=True, verify=True)
    assert [entry["name"] for entry in contents["train"]["categories"]] == ["kite", "oven"]
    assert "1 root(s) of the categories, left out for the class of that name" in "".join(told)
    given["annotations"][0]["category_id"] = 0  # then there are two classes of one name
    with pytest.raises(UserError, match="name 'kite' is given twice"):
        read_folder(folder(given), masks=True, verify=True)


def test_faults_of_both_files_are_told(folder):
    broken = [with_annotation(bbox=[1, 1, 0, 0]), with_annotation(bbox=[2, 2, 0, 0])]
    with pytest.raises(UserError, match=r"^2 things are wrong") as caught:
        read_folder(folder(*broken), masks=True, verify=True)
    assert all(words in str(caught.value) for words in ("train.json", "test.json"))


def test_text_that_is_not_unicode_is_told_with_its_cure(folder):
    text = json.dumps(content(categories=[KITE, {"id": 90, "name": "Öfen"}]), ensure_ascii=False)
    with pytest.raises(UserError, match=r"in no encoding of Unicode.*; save it as UTF-8"):
        read_folder(folder(text.encode("latin-1")), masks=True, verify=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_of_the_encoding_is_no_fault(folder, encoding):
    given = content(categories=[KITE, {"id": 90, "name": "炉"}])
    text = json.dumps(given, ensure_ascii=False).encode(encoding)
    contents, _ = read_folder(folder(text, text), masks=True, verify=True)
    assert contents["train"]["categories"][1]["name"] == "炉"


def test_backslashes_lead_to_the_file(folder, tmp_path):
    (tmp_path / "images/below").mkdir(parents=True)
    Image.new("RGB", SIZES[8]).save(tmp_path / "images/below/8.jpg")
    given = with_image(file_name="below\\8.jpg")
    contents, told = read_folder(folder(given), masks=True, verify=True)
    assert contents["train"]["images"][1]["file_name"] == "below/8.jpg"
    assert told[0].startswith(f"{tmp_path}/train.json: 1 file name(s) with backslashes")


@pytest.mark.parametrize("write", [float, str, lambda number: f" {number}.0"])
def test_ids_that_stand_for_integers_are_read_as_such(folder, write):
    given = content()
    for key in ("images", "annotations", "categories"):
        for entry in given[key]:
            for name in ("id", "image_id", "category_id", "width", "height", "iscrowd"):
                if name in entry:
                    entry[name] = write(entry[name])
    contents, told = read_folder(folder(given), masks=True, verify=True)
    plain, _ = read_folder(folder(content()), masks=True, verify=True)
    for key in ("images", "annotations", "categories"):
        for entry, other in zip(contents["train"][key], plain["train"][key], strict=True):
            assert entry["original_id"] == write(other["original_id"])
            assert {**entry, "original_id": 0} == {**other, "original_id": 0}
    assert "23 number(s) that are not written as integers" in told[0]


def test_an_id_of_a_word_or_of_half_is_refused(folder):
    for number in ("3.5", 3.5, "three", True, None):
        with pytest.raises(UserError, match=r"annotations\[2\]: id must be an integer, got"):
            read_folder(folder(with_annotation(id=number)), masks=True, verify=True)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-2, 3, 8, 9], [0, 3, 6, 9]),
        ([9, 16, 9, 10], [9, 16, 7, 8]),  # of 16×24 pixels
        ([-1.5, -2, 19, 28], [0, 0, 16, 24]),
        ([2.5, 3, 8, 9.25], [2.5, 3, 8, 9.25]),
        ([0, 0, 16, 24], [0, 0, 16, 24]),
        ([-2, 3, 2, 9], None),  # beside the image
        ([-2.1, 3, 8, 9], None),
        ([2, 3, 400, 9], None),
    ],
)
def test_a_box_that_reaches_a_little_out_of_its_image_is_clipped_and_counted(folder, box, expected):
    given = folder(with_annotation(bbox=box))
    if expected is None:
        with pytest.raises(UserError, match=r"annotation 6 \(8.jpg\): bbox .* reaches out"):
            read_folder(given, masks=True, verify=True)
        return
    contents, told = read_folder(given, masks=True, verify=True)
    assert contents["train"]["annotations"][-1]["bbox"] == expected
    clipped = f"1 box(es) that reach up to {OVERHANG_PIXELS} pixels out of their image, clipped"
    assert any(clipped in line for line in told) == (box != expected)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_is_named_before_any_training(folder, tmp_path, suffix):
    name = f"8.{suffix}"
    made = folder(with_image(file_name=name))
    path = tmp_path / "images" / name
    noise = np.random.default_rng(0).integers(0, 255, (*SIZES[8][::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"train.json: 1 fault.*\n.*image 8: .*{name} cannot be"):
        read_folder(made, masks=True, verify=True)
    read_folder(made, masks=True, verify=False)  # its header is whole


@pytest.mark.parametrize("change", ["annotations", "images"])
def test_files_that_were_changed_in_place_are_prepared_again(brought, tmp_path, change):
    made = brought(content())
    study = made.studies["detection"]
    job = next(job for job in study.jobs() if job.name == "prepare")
    before, digests = fingerprint(job.identity()), prepared.read_record(made)["fingerprint"]
    assert before == fingerprint(job.identity())
    if change == "annotations":
        (tmp_path / "train.json").write_text(
            json.dumps(with_annotation(bbox=[1, 1, 4, 4])), encoding="utf-8"
        )
    else:
        Image.new("RGB", SIZES[8], "white").save(tmp_path / "images/8.jpg", quality=100)
    assert fingerprint(job.identity()) != before
    first = sha256(prepared.annotation_file(made, "train"))
    prepare(made)
    assert prepared.read_record(made)["fingerprint"] != digests
    assert sha256(prepared.annotation_file(made, "train")) != first  # detectors are told apart


def test_a_folder_of_colour_photographs_with_boxes_alone(folder, experiment, capsys):
    boxes = [{k: v for k, v in annotation(i, 8).items() if k != "segmentation"} for i in (1, 2)]
    made = experiment(
        detection={
            "data": {
                "scenes": None,
                "folder": to_plain(folder(content(annotations=boxes))),
                "masks": False,
                "channels": 3,
            }
        }
    )
    prepare(made)
    assert prepared.categories(made) == ["kite", "oven"]
    assert (prepared.image_folder(made, "test") / "5.jpg").is_file()
    coco = COCO(prepared.annotation_file(made, "train"))
    assert coco.getCatIds() == [1, 2] and len(coco.getImgIds()) == 3
    assert not any("segmentation" in entry for entry in coco.loadAnns(coco.getAnnIds()))
    record = prepared.read_record(made)
    assert record["splits"]["train"]["images_without_annotations"] == 2
    assert record["splits"]["train"]["annotations_per_class"] == {"kite": 2, "oven": 0}
    told = capsys.readouterr().err.splitlines()
    assert told == record["read_otherwise"]
    assert "3 image(s) stand in both" in told[-1]
    prepare(made)
    assert capsys.readouterr().err == ""  # once is enough


def test_copies_of_images_and_repeated_boxes_are_told(folder, tmp_path):
    """By their bytes, where a file stands under two names; by its path, under two entries."""
    given = folder(content())
    other = tmp_path / "other"
    other.mkdir()
    for number, size in SIZES.items():
        colour = (200, 30, number) if number == 5 else (9, 9, 9)  # a copy of 5.jpg in training
        Image.new("RGB", size, colour).save(other / f"{number}.jpg")
    twin = {"id": 99, "file_name": "twin.jpg", "width": 16, "height": 24}
    shutil.copy(other / "8.jpg", other / "twin.jpg")
    again = {**content()["images"][2], "id": 100}
    test = content(images=[*content()["images"], twin, again])
    test["annotations"].append({**test["annotations"][0], "id": 77})
    (tmp_path / "test.json").write_text(json.dumps(test), encoding="utf-8")
    data = {"scenes": None, "folder": {**to_plain(given), "test_images": str(other)}}
    data = DetectionData(**data, masks=True, channels=3, verify=True)
    told = [line for line in prepare_module.read_folder(data)[1] if line.startswith("warning: ")]
    assert told == [
        f"warning: 1 test image(s) have several entries, as {other / '11.jpg'}",
        "warning: 1 test box(es) are given several times, as [2.5, 3, 8, 9.25] of 5.jpg: each "
        "counts",
        f"warning: 1 test image(s) are training images too, byte for byte, as {other / '5.jpg'} "
        f"and {tmp_path / 'images/5.jpg'}; what is measured on them is memory",
        f"warning: 1 test image(s) are copies of others, byte for byte, as {other / 'twin.jpg'} of "
        f"{other / '8.jpg'}",
    ]
    unread = prepare_module.read_folder(data.replaced(verify=False))[1]
    assert sum("byte for byte" in line for line in unread) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "train.json cannot be read"),
        ('{"images": ' + "9" * 5000 + "}", "train.json cannot be read .*digits"),
    ],
)
def test_json_that_python_does_not_read_is_named(folder, text, words):
    with pytest.raises(UserError, match=words):
        read_folder(folder(text), masks=True, verify=False)


def test_a_file_name_of_thousands_of_letters_is_a_file_that_is_not_there(folder):
    for name in ("a" * 5000, "a\\" * 3000):
        with pytest.raises(UserError, match="image 8: no file"):
            read_folder(folder(with_image(file_name=name)), masks=True, verify=False)


def test_neighbouring_ids_of_text_keep_all_their_digits(folder):
    """A float has room for 15 digits."""
    ids = {5: "9007199254740992", 8: "9007199254740993"}
    given = content()
    for entry in given["images"]:
        entry["id"] = ids.get(entry["id"], entry["id"])
    for entry in given["annotations"]:
        entry["image_id"] = ids.get(entry["image_id"], entry["image_id"])
    contents, _ = read_folder(folder(given), masks=True, verify=True)
    plain, _ = read_folder(folder(content()), masks=True, verify=True)
    for key in ("images", "annotations"):
        for entry, other in zip(contents["train"][key], plain["train"][key], strict=True):
            for number in ("id", "image_id"):
                assert entry.get(number) == other.get(number)
