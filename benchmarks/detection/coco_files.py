"""One file of COCO annotations, as any tool writes it: read as it is meant, and checked.

A fault ends with an error that names the file and the entries. What is read otherwise than it is
written (ids as text, backslashes, boxes that reach a little out of their image) is counted.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from benchmarks.detection.segmentations import are_finite, area_of, fault_of, short
from manifold.counted import Counted
from manifold.errors import UserError
from manifold.image_files import ImageCheck, size_as_shown
from manifold.training.progress import progress

LISTS = ("images", "annotations", "categories")
OVERHANG_PIXELS = 2  # of a box over the image's edge: coordinates that a tool has rounded
SHOWN_FAULTS = 5
WHOLE_NUMBER = re.compile(r"\s*([+-]?\d{1,100})(?:\.0*)?\s*")
NO_MASKS = "correct it, or set detection.data.masks=false to train on boxes alone"
Sizes = dict[int, tuple[int, int]]  # width and height by image id


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


class Notes(Counted):
    """What of one file is read otherwise than it is written: how often, and the first case."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def lines(self) -> list[str]:
        return [f"{self.path}: {words}" for words in self.words("; the first: ")]


# ---- the file --------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Read a file and its three lists, in any encoding of Unicode, with or without its mark.

    Raises:
        UserError: there is none, or it holds no COCO annotations.
    """
    try:
        text = path.read_bytes()
        content = json.loads(text) if text.strip() else None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}; write or "
            "download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is in no encoding of Unicode ({error.reason} at byte {error.start}); save it "
            "as UTF-8"
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # no text; thousands of digits, of [
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path} cannot be read ({reason}); detection.data.folder must name COCO annotations, "
            "like COCO's instances_val2017.json"
        ) from error
    if not text.strip():
        raise UserError(f"{path} is empty; write or download it again")
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must hold an object with images, annotations and categories, got "
            f"{type(content).__name__}"
        )
    missing = [key for key in LISTS if key not in content]
    if missing:
        raise UserError(
            f"{path} lacks {listed(missing)}, so it holds no COCO annotations; it has "
            f"{listed(list(content)) or 'nothing'}"
        )
    for key in LISTS:
        entries = content[key]
        if not isinstance(entries, list):
            raise UserError(f"{path}: {key!r} must be a list, got {type(entries).__name__}")
        if not entries:
            raise UserError(f"{path}: {key!r} is empty; there is nothing to learn or to evaluate")
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise UserError(f"{path}: {key}[{place}] must be an object, got {short(entry)}")
    return content


def normalise(content: dict[str, Any], folder: Path, notes: Notes) -> None:
    """Make whole numbers of ids, widths and heights, and of file names what stands in ``folder``.

    An id of 3.0 or "3" is meant as 3, and a backslash of Windows as a slash.
    """
    keys = {"images": ("id", "width", "height"), "categories": ("id",)}
    keys["annotations"] = ("id", "image_id", "category_id", "iscrowd")
    for name in LISTS:
        for entry in content[name]:
            for key in keys[name]:
                if key in entry and type(entry[key]) is not int:
                    _make_whole(entry, key, name, notes)
    for entry in content["images"]:
        name = entry.get("file_name")
        if isinstance(name, str) and "\\" in name and not os.path.exists(folder / name):
            entry["file_name"] = name.replace("\\", "/")
            notes.add("file name(s) with backslashes, read as slashes", name)
    for entry in content["annotations"]:
        if entry.get("iscrowd", 0) is None:
            entry["iscrowd"] = 0


def _make_whole(entry: dict[str, Any], key: str, name: str, notes: Notes) -> None:
    """Replace a value by the whole number that it stands for, if it stands for one."""
    value = entry[key]
    is_flag = isinstance(value, bool) and key == "iscrowd"
    is_number = isinstance(value, float) and value.is_integer()
    if is_flag or is_number:
        entry[key] = int(value)
    elif isinstance(value, str) and (found := WHOLE_NUMBER.fullmatch(value)):
        entry[key] = int(found[1])  # and by no float, which has no room for all digits
    if type(entry[key]) is int:
        notes.add("number(s) that are not written as integers, read as such", f"{key} {value!r}")


def check(
    content: dict[str, Any],
    notes: Notes,
    folder: Path,
    split: str,
    masks: bool,
    found: ImageCheck | None = None,
) -> None:
    """Check the lists of one file against each other and against the images in ``folder``.

    Adds ``area`` and ``iscrowd`` to annotations that lack them, without ``masks`` takes their
    segmentations away, and clips boxes that reach at most OVERHANG_PIXELS out of their image.

    Args:
        found: decodes every image; without, headers alone are read, for the sizes.

    Raises:
        UserError: names the file, the first faulty entries, and what to do.
    """
    faults = Faults(notes.path)
    _check_ids(content, faults)
    _check_categories(content["categories"], faults)
    faults.raise_any()  # what follows looks entries up by id
    _check_images(content["images"], folder, split, found, faults)
    faults.raise_any()
    _check_annotations(content, split, masks, faults, notes)
    faults.raise_any()


# ---- its lists -------------------------------------------------------------------------------


def _check_ids(content: dict[str, Any], faults: Faults) -> None:
    for key in LISTS:
        seen: set[int] = set()
        for place, entry in enumerate(content[key]):
            number = entry.get("id")
            if type(number) is not int:
                faults.add(f"{key}[{place}]: id must be an integer, got {short(number)}")
            elif number in seen:
                faults.add(f"{key}[{place}]: id {number} is given twice; give each entry its own")
            else:
                seen.add(number)


def _check_categories(categories: list[dict[str, Any]], faults: Faults) -> None:
    seen: set[str] = set()
    for entry in categories:
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            faults.add(f"category {entry.get('id')}: name must be text, got {short(name)}")
        elif name in seen:
            faults.add(f"category {entry['id']}: name {name!r} is given twice; rename one")
        else:
            seen.add(name)


def _check_images(
    images: list[dict[str, Any]],
    folder: Path,
    split: str,
    found: ImageCheck | None,
    faults: Faults,
) -> None:
    """Hold every image's file to its entry."""
    for entry in progress(images, what=f"check {split} images", unit="image"):
        name, size = entry.get("file_name"), [entry.get("width"), entry.get("height")]
        if not isinstance(name, str) or not name:
            faults.add(f"image {entry['id']}: file_name must be text, got {short(name)}")
        elif any(type(side) is not int or side < 1 for side in size):
            faults.add(
                f"image {entry['id']} ({name}): width and height must be positive integers, got "
                f"{short(size)}"
            )
        else:
            _check_file(entry["id"], folder / name, size, found, faults)


def _check_file(
    number: int, path: Path, size: list[int], found: ImageCheck | None, faults: Faults
) -> None:
    if not os.path.isfile(path):  # a name too long is none
        faults.add(
            f"image {number}: no file {path}; put it there or remove the entry (is "
            "detection.data.folder right?)"
        )
        return
    try:
        real = size_as_shown(path) if found is None else list(found.read(path, "RGB").size)
    except UserError as error:
        faults.add(f"image {number}: {error}")
        return
    if real != size:
        faults.add(
            f"image {number}: {path} is {real[0]}×{real[1]} pixels, the entry says "
            f"{size[0]}×{size[1]}; correct width and height, or the image"
        )


def _check_annotations(
    content: dict[str, Any], split: str, masks: bool, faults: Faults, notes: Notes
) -> None:
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    names = {entry["id"]: entry["file_name"] for entry in content["images"]}
    categories = {entry["id"] for entry in content["categories"]}
    annotations = content["annotations"]
    for entry in progress(annotations, what=f"check {split} annotations", unit="annotation"):
        fault, image = _fault_of(entry, sizes, categories, masks), entry.get("image_id")
        name = names.get(image) if type(image) is int else None
        which = f"annotation {entry['id']}{f' ({name})' if name else ''}"
        if fault:
            faults.add(f"{which}: {fault}")
            continue
        size = sizes[entry["image_id"]]
        if _overhang(entry["bbox"], size) > 0:
            notes.add(
                f"box(es) that reach up to {OVERHANG_PIXELS} pixels out of their image, clipped",
                f"{which}, {entry['bbox']} in {size[0]}×{size[1]} pixels",
            )
            entry["bbox"] = _clipped(entry["bbox"], size)
        if "iscrowd" not in entry:
            notes.add("annotation(s) without iscrowd, taken as of one object (0)", which)
            entry["iscrowd"] = 0
        if not masks:
            entry.pop("segmentation", None)
        if "area" not in entry:
            notes.add("annotation(s) without area, which is computed", which)
            entry["area"] = area_of(entry, size)


def _fault_of(entry: dict[str, Any], sizes: Sizes, categories: set[int], masks: bool) -> str | None:
    """What is wrong with an annotation, and what to do about it."""
    image, category, box = (entry.get(key) for key in ("image_id", "category_id", "bbox"))
    if type(image) is not int or image not in sizes:
        return f"image_id {short(image)} is in no entry of images; remove it or add the image"
    if type(category) is not int or category not in categories:
        return (
            f"category_id {short(category)} is in no entry of categories; remove it or add the "
            "category"
        )
    fault = _fault_of_box(box, sizes[image])
    if fault:
        return fault
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd must be 0 or 1, got {short(entry['iscrowd'])}"
    area = entry.get("area", 0)
    if not are_finite([area]) or area < 0:
        return f"area must be a number of pixels, got {short(area)}; remove it to have it computed"
    if masks:
        fault = fault_of(entry.get("segmentation"), sizes[image])
        return fault and f"{fault}; {NO_MASKS}"
    return None


def _fault_of_box(box: Any, size: tuple[int, int]) -> str | None:
    if not (isinstance(box, list) and len(box) == 4 and are_finite(box)):
        return f"bbox must be four finite numbers [x, y, width, height], got {short(box)}"
    cure = "correct it, or list the annotation's id in detection.data.folder.ignored"
    if min(box[2:]) <= 0:
        return f"bbox {box} has no area; {cure}"
    if _overhang(box, size) > OVERHANG_PIXELS or min(_clipped(box, size)[2:]) <= 0:
        return (
            f"bbox {box} reaches out of its image of {size[0]}×{size[1]} pixels; bbox is "
            f"[x, y, width, height], not two corners; {cure}"
        )
    return None


def _overhang(box: list[float], size: tuple[int, int]) -> float:
    """The pixels by which a box reaches out of its image, at the side where they are most."""
    left, top, width, height = box
    return max(-left, -top, left + width - size[0], top + height - size[1])


def _clipped(box: list[float], size: tuple[int, int]) -> list[float]:
    """The part of a box that lies in its image."""
    left, top, width, height = box
    right, bottom = min(left + width, size[0]), min(top + height, size[1])
    left, top = max(left, 0), max(top, 0)
    return [left, top, right - left, bottom - top]


def listed(values: list[Any]) -> str:
    """The first of some values, and how many more there are."""
    shown = ", ".join(str(value) for value in values[:SHOWN_FAULTS])
    return shown + (f" and {len(values) - SHOWN_FAULTS} more" if len(values) > SHOWN_FAULTS else "")
