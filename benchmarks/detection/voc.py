"""Write the boxes of a folder of Pascal VOC's XML files as one file in COCO's format.

``python -m benchmarks voc-to-coco Annotations JPEGImages train.json``, with ``--names
ImageSets/Main/train.txt`` for the images of a split.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from manifold.errors import UserError
from manifold.files import read_text, write_text
from manifold.image_files import size_as_shown

CORNERS = ("xmin", "ymin", "xmax", "ymax")
PIXELS = re.compile(r"[0-9]{1,9}")
FLAGS = {"0": False, "1": True, "false": False, "true": True}
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")  # of images whose entry has none


def convert(annotations: Path, images: Path, names: list[str] | None = None) -> dict[str, Any]:
    """COCO's lists of a folder of XML files.

    A box of VOC has its corners in it, counted from 1: [xmin, xmax] becomes x = xmin - 1 and
    width = xmax - xmin + 1. Objects that are marked as difficult become crowds, which no detector
    learns and no AP counts. Classes are in the order of their names.

    Args:
        annotations: the folder of the XML files.
        images: the folder of their images.
        names: of the files, without ``.xml``; by default all, in alphabetical order.

    Raises:
        UserError: names the file and what is wrong in it.
    """
    if not annotations.is_dir():
        raise UserError(f"{annotations}: no such folder; it must hold VOC's XML files")
    if names is None:
        names = sorted(path.stem for path in annotations.glob("*.xml"))
    if not names:
        raise UserError(f"{annotations} holds no XML file")
    names = list(dict.fromkeys(names))  # a list of a split may name one twice
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    objects: list[tuple[int, str, list[float], bool]] = []
    for number, name in enumerate(names, start=1):
        path = annotations / f"{name}.xml"
        root = _read(path)
        entry, found = _image(root, path, images), [_object(o, path) for o in root.iter("object")]
        content["images"].append({"id": number, **entry})
        objects += [(number, *each) for each in found]
    if not objects:
        raise UserError(f"{annotations}: no <object> in {len(names)} file(s)")
    ids = {name: i for i, name in enumerate(sorted({name for _, name, _, _ in objects}), start=1)}
    content["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    for number, (image, name, box, is_difficult) in enumerate(objects, start=1):
        entry = {"id": number, "image_id": image, "category_id": ids[name], "bbox": box}
        content["annotations"].append(
            {**entry, "area": box[2] * box[3], "iscrowd": int(is_difficult)}
        )
    return content


def _read(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read as XML: {reason}") from error


def _image(root: ElementTree.Element, path: Path, folder: Path) -> dict[str, Any]:
    """The entry of an image: its file's name in the folder, and its size."""
    given = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    tried = [*([given] if given else []), *(f"{path.stem}{suffix}" for suffix in SUFFIXES)]
    name = next((name for name in tried if (folder / name).is_file()), None)
    if name is None:
        raise UserError(
            f"{path}: no image {folder / tried[0]}, nor one named {path.stem} like the XML file"
        )
    size = [root.findtext(f"size/{side}") or "" for side in ("width", "height")]
    if all(PIXELS.fullmatch(side.strip()) and int(side) for side in size):
        width, height = map(int, size)
    else:  # some tools write none, or zeros
        width, height = size_as_shown(folder / name)
    return {"file_name": name, "width": width, "height": height}


def _object(element: ElementTree.Element, path: Path) -> tuple[str, list[float], bool]:
    """An object's class, its box as COCO has it, and whether it is marked as difficult."""
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{path}: an <object> has no <name>")
    corners = [element.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        left, top, right, bottom = (float(corner or "") for corner in corners)
    except ValueError:
        raise UserError(
            f"{path}: an object {name!r} needs a <bndbox> with the numbers {', '.join(CORNERS)}, "
            f"got {corners}"
        ) from None
    if not all(map(math.isfinite, (left, top, right, bottom))) or right < left or bottom < top:
        raise UserError(
            f"{path}: the <bndbox> of an object {name!r} must hold finite corners, xmin ≤ xmax and "
            f"ymin ≤ ymax, got {corners}"
        )
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    return name, box, _flag(element.findtext("difficult"), path)


def _flag(text: str | None, path: Path) -> bool:
    word = (text or "0").strip().lower()
    if word not in FLAGS:
        raise UserError(f"{path}: <difficult> must be one of {', '.join(FLAGS)}, got {text!r}")
    return FLAGS[word]


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks voc-to-coco", description=__doc__)
    parser.add_argument("annotations", type=Path, help="folder of the XML files")
    parser.add_argument("images", type=Path, help="folder of their images")
    parser.add_argument("output", type=Path, help="the file to be written")
    parser.add_argument("--names", type=Path, help="a file that lists those of this split")
    options = parser.parse_args()
    names = None
    if options.names:
        try:
            lines = read_text(options.names).splitlines()
        except OSError as error:
            raise UserError(f"{options.names} cannot be read: {error.strerror}") from error
        names = [line.split()[0].removesuffix(".xml") for line in lines if line.strip()]
    content = convert(options.annotations, options.images, names)
    write_text(options.output, json.dumps(content) + "\n")
    crowds = sum(entry["iscrowd"] for entry in content["annotations"])
    counts = [f"{len(content[key]):,} {key}" for key in ("images", "annotations", "categories")]
    print(
        f"wrote {options.output}: {', '.join(counts)}"
        + (f"; {crowds} difficult object(s) as crowds" if crowds else ""),
        file=sys.stderr,
    )
