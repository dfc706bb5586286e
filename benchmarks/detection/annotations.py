"""COCO annotations of any folder: read, and checked entry by entry before any compute.

A fault ends with an error that names the file and the entries. Images are not decoded: their
headers alone are read, for their sizes.
"""

from benchmarks.detection import requirements  # noqa: F401 (before pycocotools)

# isort: split
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

from benchmarks.detection import CocoFolder
from manifold.errors import UserError
from manifold.training.progress import progress

OVERHANG_PIXELS = 1  # of a box over the image's edge: coordinates that a tool has rounded
SHOWN_FAULTS = 5
SMALLEST_POLYGON = 6  # numbers: three corners
NUMBERS = (int, float)
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
NO_MASKS = "correct it, or set detection.data.masks=false to train on boxes alone"


class Faults:
    """Faults of one file, collected so that its user sees how many there are."""

    def __init__(self, path: Path):
        self.path = path
        self.shown: list[str] = []
        self.count = 0

    def add(self, fault: str) -> None:
        self.count += 1
        if self.count <= SHOWN_FAULTS:
            self.shown.append(fault)

    def raise_any(self) -> None:
        if not self.count:
            return
        more = self.count - len(self.shown)
        lines = [*self.shown, *([f"and {more} more"] if more else [])]
        raise UserError(f"{self.path}: {self.count} fault(s):\n  " + "\n  ".join(lines))


# ---- both files ------------------------------------------------------------------------------


def read_folder(folder: CocoFolder, masks: bool) -> dict[str, dict[str, Any]]:
    """Read and check the annotations of both splits.

    Returns:
        The content of each file, without the annotations that are ignored, with ``area`` and
        ``iscrowd`` where they were lacking; without segmentations where masks are not used.

    Raises:
        UserError: names the file, the entries and what to do.
    """
    contents, ignored = {}, set()
    for split in ("train", "test"):
        path = Path(getattr(folder, f"{split}_annotations"))
        content = _read(path)
        annotations = content["annotations"]
        kept = [entry for entry in annotations if _id(entry) not in folder.ignored]
        ignored |= {_id(entry) for entry in annotations} & set(folder.ignored)
        contents[split] = {**content, "annotations": kept}
        images = Path(getattr(folder, f"{split}_images"))
        check(contents[split], path, images, split, masks)
    unknown = sorted(set(folder.ignored) - ignored)
    if unknown:
        raise UserError(
            f"detection.data.folder.ignored: no annotation has the id {_list(unknown)}; neither "
            f"{folder.train_annotations} nor {folder.test_annotations} does"
        )
    _compare_categories(folder, contents)
    return contents


def _compare_categories(folder: CocoFolder, contents: dict[str, dict[str, Any]]) -> None:
    train, test = (
        {(entry["id"], entry["name"]) for entry in contents[split]["categories"]}
        for split in ("train", "test")
    )
    if train != test:
        odd = [f"{number} {name!r}" for number, name in sorted(train ^ test)]
        raise UserError(
            f"{folder.test_annotations}: its categories are not those of "
            f"{folder.train_annotations}; only one of them has {_list(odd)}. Give both files the "
            "same ids and names"
        )


# ---- one file --------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    """Read a file and its three lists."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path} cannot be read ({reason}); detection.data.folder must name COCO annotations, "
            "like COCO's instances_val2017.json"
        ) from error
    if not text.strip():
        raise UserError(f"{path} is empty; write or download it again")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}; write or "
            "download it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold an object with images, annotations and categories, got "
            f"{type(content).__name__}"
        )
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if key not in content]
    if missing:
        raise UserError(
            f"{path} lacks {_list(missing)}, so it holds no COCO annotations; it has "
            f"{_list(list(content)) or 'nothing'}"
        )
    for key in keys:
        entries = content[key]
        if not isinstance(entries, list):
            raise UserError(f"{path}: {key!r} must be a list, got {type(entries).__name__}")
        if not entries:
            raise UserError(f"{path}: {key!r} is empty; there is nothing to learn or to evaluate")
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise UserError(f"{path}: {key}[{place}] must be an object, got {_short(entry)}")
    return content


def check(content: dict[str, Any], path: Path, folder: Path, split: str, masks: bool) -> None:
    """Check the lists of one file against each other and against the images in ``folder``.

    Adds ``area`` and ``iscrowd`` to annotations that lack them, and without ``masks`` takes their
    segmentations away.

    Raises:
        UserError: names the file, the first faulty entries, and what to do.
    """
    faults = Faults(path)
    _check_ids(content, faults)
    _check_categories(content["categories"], faults)
    faults.raise_any()  # what follows looks entries up by id
    _check_images(content["images"], folder, split, faults)
    faults.raise_any()
    _check_annotations(content, split, masks, faults)
    faults.raise_any()


def _check_ids(content: dict[str, Any], faults: Faults) -> None:
    for key in ("images", "annotations", "categories"):
        seen: set[int] = set()
        for place, entry in enumerate(content[key]):
            number = _id(entry)
            if number is None:
                faults.add(f"{key}[{place}]: id must be an integer, got {_short(entry.get('id'))}")
            elif number in seen:
                faults.add(f"{key}[{place}]: id {number} is given twice; give each entry its own")
            seen.add(number)


def _check_categories(categories: list[dict[str, Any]], faults: Faults) -> None:
    seen: set[str] = set()
    for entry in categories:
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            faults.add(f"category {entry.get('id')}: name must be text, got {_short(name)}")
        elif name in seen:
            faults.add(f"category {entry['id']}: name {name!r} is given twice; rename one")
        else:
            seen.add(name)


def _check_images(images: list[dict[str, Any]], folder: Path, split: str, faults: Faults) -> None:
    """Hold every image's file to its entry."""
    for entry in progress(images, what=f"check {split} images", unit="image"):
        name, size = entry.get("file_name"), [entry.get("width"), entry.get("height")]
        if not isinstance(name, str) or not name:
            faults.add(f"image {entry['id']}: file_name must be text, got {_short(name)}")
        elif any(type(side) is not int or side < 1 for side in size):
            faults.add(
                f"image {entry['id']} ({name}): width and height must be positive integers, got "
                f"{_short(size)}"
            )
        else:
            _check_file(entry["id"], folder / name, size, faults)


def _check_file(number: int, path: Path, size: list[int], faults: Faults) -> None:
    try:
        with Image.open(path) as image:
            real = list(image.size)
            # Of a JPEG alone: PIL would decode all of a PNG to look for it.
            is_jpeg = image.format == "JPEG"
            if is_jpeg and image.getexif().get(ExifTags.Base.Orientation) in TURNED:
                real.reverse()  # as OpenCV turns it, which reads the images in training
    except FileNotFoundError:
        faults.add(
            f"image {number}: no file {path}; put it there or remove the entry (is "
            "detection.data.folder right?)"
        )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        faults.add(f"image {number}: {path} cannot be opened ({error}); replace it")
    else:
        if real != size:
            faults.add(
                f"image {number}: {path} is {real[0]}×{real[1]} pixels, the entry says "
                f"{size[0]}×{size[1]}; correct width and height, or the image"
            )


def _check_annotations(content: dict[str, Any], split: str, masks: bool, faults: Faults) -> None:
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    names = {entry["id"]: entry["file_name"] for entry in content["images"]}
    categories = {entry["id"] for entry in content["categories"]}
    annotations = content["annotations"]
    for entry in progress(annotations, what=f"check {split} annotations", unit="annotation"):
        fault = _fault_of(entry, sizes, categories, masks)
        if fault:
            name = names.get(entry.get("image_id"))
            faults.add(f"annotation {entry['id']}{f' ({name})' if name else ''}: {fault}")
            continue
        entry.setdefault("iscrowd", 0)
        if not masks:
            entry.pop("segmentation", None)
        if "area" not in entry:
            entry["area"] = _area(entry, sizes[entry["image_id"]])


def _fault_of(
    entry: dict[str, Any], sizes: dict[int, tuple[int, int]], categories: set[int], masks: bool
) -> str | None:
    """What is wrong with an annotation, and what to do about it."""
    image, category, box = (entry.get(key) for key in ("image_id", "category_id", "bbox"))
    if type(image) is not int or image not in sizes:
        return f"image_id {_short(image)} is in no entry of images; remove it or add the image"
    if type(category) is not int or category not in categories:
        return (
            f"category_id {_short(category)} is in no entry of categories; remove it or add the "
            "category"
        )
    if not (isinstance(box, list) and len(box) == 4 and _are_finite(box)):
        return f"bbox must be four finite numbers [x, y, width, height], got {_short(box)}"
    left, top, width, height = box
    if width <= 0 or height <= 0:
        return (
            f"bbox {box} has no area; correct it, or list the annotation's id in "
            "detection.data.folder.ignored"
        )
    right, bottom = (
        side + OVERHANG_PIXELS - offset
        for side, offset in zip(sizes[image], (left, top), strict=True)
    )
    if min(left, top) < -OVERHANG_PIXELS or width > right or height > bottom:
        return (
            f"bbox {box} reaches out of its image of {sizes[image][0]}×{sizes[image][1]} pixels; "
            "bbox is [x, y, width, height], not two corners; correct it, or list the annotation's "
            "id in detection.data.folder.ignored"
        )
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd must be 0 or 1, got {_short(entry['iscrowd'])}"
    area = entry.get("area", 0)
    if not _are_finite([area]) or area < 0:
        return f"area must be a number of pixels, got {_short(area)}; remove it to have it computed"
    if masks:
        fault = _fault_of_segmentation(entry.get("segmentation"), sizes[image])
        return fault and f"{fault}; {NO_MASKS}"
    return None


def _fault_of_segmentation(segmentation: Any, size: tuple[int, int]) -> str | None:
    if not segmentation:
        return "it has no segmentation"
    if isinstance(segmentation, dict):
        return _fault_of_run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        return f"segmentation must be polygons or run lengths, got {_short(segmentation)}"
    for polygon in segmentation:
        if not isinstance(polygon, list) or not _are_finite(polygon):
            return (
                "segmentation must be a list of polygons, each a list of finite numbers "
                f"[x1, y1, x2, y2, …], got {_short(polygon)}"
            )
        if len(polygon) < SMALLEST_POLYGON or len(polygon) % 2:
            return (
                f"a polygon must have an even number of coordinates, at least {SMALLEST_POLYGON}, "
                f"got {len(polygon)}"
            )
    return None


def _fault_of_run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> str | None:
    """Check run lengths here: pycocotools trusts them and would write past its memory."""
    width, height = size
    if segmentation.get("size") != [height, width]:
        return (
            f"segmentation's run lengths are for size {_short(segmentation.get('size'))}, its "
            f"image's [height, width] is {[height, width]}"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _decompress(counts)
    is_whole = isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
    if not is_whole or sum(counts) != width * height:
        return (
            "segmentation's counts must be run lengths that add up to height · width = "
            f"{width * height}, as numbers or as pycocotools' text, got "
            f"{_short(segmentation.get('counts'))}"
        )
    if not sum(counts[1::2]):
        return "segmentation covers no pixel"
    return None


def _decompress(text: str) -> list[int] | None:
    """The run lengths of COCO's compressed text, or nothing where it is none.

    A character carries 5 bits, lowest first, a sixth that says whether more follow, and 48 is added
    to make it printable; a number's highest bit is its sign. From the third run on (the first of
    each colour stand as they are) a number is the difference to the last run of the same colour.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return None if shift else counts


def _area(entry: dict[str, Any], size: tuple[int, int]) -> float:
    """The pixels of an annotation's mask, or of its box where it has none."""
    segmentation = entry.get("segmentation")
    if segmentation is None:
        return float(entry["bbox"][2] * entry["bbox"][3])
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return float(coco_mask.area(segmentation))
    encoded = coco_mask.frPyObjects(segmentation, size[1], size[0])
    return float(coco_mask.area(coco_mask.merge(encoded) if isinstance(encoded, list) else encoded))


# ---- values ----------------------------------------------------------------------------------


def _id(entry: dict[str, Any]) -> int | None:
    number = entry.get("id")
    return number if type(number) is int else None


def _are_finite(values: Iterable[Any]) -> bool:
    return all(type(value) in NUMBERS and math.isfinite(value) for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _list(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:SHOWN_FAULTS])
    return shown + (f" and {len(values) - SHOWN_FAULTS} more" if len(values) > SHOWN_FAULTS else "")
