"""Masks in COCO's format, polygons and run lengths, checked before pycocotools trusts them."""

from benchmarks.detection import requirements  # noqa: F401 (before pycocotools)

# isort: split
import math
from collections.abc import Iterable
from typing import Any

from pycocotools import mask as coco_mask

SMALLEST_POLYGON = 6  # numbers: three corners
NO_AREA = 1e-6  # in pixels: what rounding leaves of none
NUMBERS = (int, float)
LONGEST_VALUE = 60  # characters of a value in a message


def are_finite(values: Iterable[Any]) -> bool:
    try:
        return all(type(value) in NUMBERS and math.isfinite(value) for value in values)
    except OverflowError:  # an integer beyond every float
        return False


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}…"


def fault_of(segmentation: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with an annotation's masks.

    Args:
        size: width and height of its image.
    """
    if not segmentation:
        return "it has no segmentation"
    if isinstance(segmentation, dict):
        return _fault_of_run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        return f"segmentation must be polygons or run lengths, got {short(segmentation)}"
    for polygon in segmentation:
        if not isinstance(polygon, list) or not are_finite(polygon):
            return (
                "segmentation must be a list of polygons, each a list of finite numbers "
                f"[x1, y1, x2, y2, …], got {short(polygon)}"
            )
        if len(polygon) < SMALLEST_POLYGON or len(polygon) % 2:
            return (
                f"a polygon must have an even number of coordinates, at least {SMALLEST_POLYGON}, "
                f"got {len(polygon)}"
            )
        fault = _fault_along(polygon[::2], size[0], "wide")
        fault = fault or _fault_along(polygon[1::2], size[1], "high")
        if fault:
            return fault
    if all(_enclosed(polygon) < NO_AREA for polygon in segmentation):
        return "segmentation encloses no area: its corners lie on one point or line"
    return None


def _enclosed(polygon: list[float]) -> float:
    """The area of a polygon, by the shoelace formula."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    ends = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(x * below - right * y for (x, y), (right, below) in ends)) / 2


def _fault_along(corners: list[float], length: int, side: str) -> str | None:
    """What is wrong with the corners of a polygon along one side of its image."""
    if max(corners) <= 0 or min(corners) >= length:
        return f"segmentation has a polygon outside its image, {length} pixels {side}"
    # pycocotools draws along every pixel of an edge; far enough out, it crashes.
    if min(corners) < -length or max(corners) > 2 * length:
        far = max(corners, key=abs)
        return f"segmentation reaches out to {far:g} of an image {length} pixels {side}"
    return None


def _fault_of_run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> str | None:
    """Check run lengths here: pycocotools trusts them and would write past its memory."""
    width, height = size
    if segmentation.get("size") != [height, width]:
        return (
            f"segmentation's run lengths are for size {short(segmentation.get('size'))}, its "
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
            f"{short(segmentation.get('counts'))}"
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


def area_of(entry: dict[str, Any], size: tuple[int, int]) -> float:
    """The pixels of an annotation's mask, or of its box where it has none.

    Args:
        size: width and height of its image.
    """
    segmentation = entry.get("segmentation")
    if segmentation is None:
        return float(entry["bbox"][2] * entry["bbox"][3])
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return float(coco_mask.area(segmentation))
    encoded = coco_mask.frPyObjects(segmentation, size[1], size[0])
    return float(coco_mask.area(coco_mask.merge(encoded) if isinstance(encoded, list) else encoded))
