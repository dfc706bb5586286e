"""The one reader of image files: 8 bits a channel, upright, opaque; or an error that names it.

What a file holds is read as it was meant: turned by its EXIF orientation, transparent pixels on
white, more than 8 bits a channel scaled to 8. What has no such reading is refused. An image of 8
bits without any of this is what PIL's ``convert`` makes of it, byte for byte.
"""

import struct
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image

from manifold.counted import Counted
from manifold.errors import UserError

BACKGROUND = "white"  # what shows through transparent pixels, as on a page
FULL_RANGE = 2**16 - 1
DIM_RANGE = 2**14 - 1  # at most a quarter of the range: 10, 12 or 14 bits in files of 16
ROUNDING = 1e-3  # of floating-point images beyond 0 and 1
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, which PIL heeds up to 8 bits
SAMPLE_FORMAT, WITH_SIGN = 339, 2  # another, which it does not heed at 8 bits

CURE = (
    "write the data set's files anew in 8 bits, all with the same two numbers for black and white: "
    "numpy.uint8(255 * (values - black) / (white - black))"
)

# How an image is to be turned, by its EXIF orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # of these, those that swap width and height

Mode = Literal["L", "RGB"]
File = str | Path | BinaryIO

# What reading may change, in the words of the check.
TURNED = "turned as their EXIF orientation says"
COMPOSITED = f"with transparent pixels, put on {BACKGROUND}"
SCALED = "of more than 8 bits a channel, scaled to 8"
FIRST_OF_SEVERAL = "of several pages or frames, of which the first is read"


@dataclass
class Reading:
    """An image as it is used, and what reading has changed.

    Attributes:
        changes: words of this module's constants.
        largest: of a file of more than 8 bits a channel, its largest value where white is 65535.
    """

    image: Image.Image
    changes: list[str] = field(default_factory=list)
    largest: int | None = None


def mode_of(channels: Literal[1, 3]) -> Mode:
    return "L" if channels == 1 else "RGB"


def read_image(file: File, mode: Mode) -> Image.Image:
    """Return an image in grey ("L") or colour ("RGB"), 8 bits a channel.

    Args:
        file: a path, or an open binary file.

    Raises:
        UserError: it cannot be read, or nothing says what its values mean; names the file.
    """
    return examine(file, mode).image


def examine(file: File, mode: Mode) -> Reading:
    """``read_image``, with what was changed."""
    try:
        # Pillow maps a TIFF that it opens by its path into memory, and then turns it wrongly.
        by_path = isinstance(file, str | Path)
        if by_path:
            _refuse_pipes(Path(file))
        with (
            open(file, "rb") if by_path else nullcontext(file) as stream,
            Image.open(stream) as image,
        ):
            return _read(image, mode, _name(file))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise _unreadable(file, error) from error


def size_as_shown(path: Path) -> list[int]:
    """Width and height of an image as ``read_image`` gives it; it is not decoded.

    Raises:
        UserError: it cannot be read.
    """
    try:
        _refuse_pipes(path)
        with Image.open(path) as image:
            # PIL turns a TIFF itself, and would decode a PNG to look for notes behind its pixels.
            has_notes = image.format not in ("TIFF", "PNG") or "exif" in image.info
            is_sideways = has_notes and _orientation(image) in SIDEWAYS
            return list(image.size[::-1] if is_sideways else image.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _refuse_pipes(path: Path) -> None:
    """Raise an OSError for what would be waited for, and is no file."""
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file")


def _unreadable(file: File, error: Exception) -> UserError:
    return UserError(f"{_name(file)} cannot be read as an image: {error}; replace it")


def _name(file: File) -> str:
    return str(file if isinstance(file, str | Path) else getattr(file, "name", file))


def _read(image: Image.Image, mode: Mode, name: str) -> Reading:
    tiles = [tile.args for tile in image.tile]  # how pixels are stored; none are left below
    layouts = [str(arguments) for arguments in tiles]
    changes = []
    if _orientation(image) in TURNS:
        changes.append(TURNED)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a JPEG and its previews
        changes.append(FIRST_OF_SEVERAL)
    image.load()  # turns TIFF, and nothing else
    turn = TURNS.get(_orientation(image))
    largest = None
    _refuse_signed(image, name)
    if image.mode == "F":
        image, largest = _from_shares(image, name)
        changes.append(SCALED)
    elif image.mode.startswith("I"):
        bits = 12 if any("I;12" in layout for layout in layouts) else 16
        image, largest, is_transparent = _from_integers(image, bits, name)
        changes += [SCALED, *([COMPOSITED] if is_transparent else [])]
    elif any(";16" in layout for layout in layouts) or _is_deep_ppm(image, tiles):
        # PIL has kept the upper 8 bits of colours.
        largest = max(high for _, high in _extrema(image)) << 8 | 0xFF
        changes.append(SCALED)
    if image.has_transparency_data:
        image, is_transparent = _on_background(image)
        changes += [COMPOSITED] if is_transparent else []
    image = image.convert(mode)
    return Reading(image if turn is None else image.transpose(turn), changes, largest)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return None  # the notes are damaged, and not the pixels


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """The smallest and largest value of each channel but that of opacity."""
    found = image.getextrema()
    if not isinstance(found[0], tuple):
        return [found]
    return list(found[:-1] if image.mode in ("LA", "RGBA") else found)


def _is_deep_ppm(image: Image.Image, tiles: list) -> bool:
    """Whether the largest value that the head of a colour PPM announces needs more than 8 bits."""
    return image.format == "PPM" and any(
        isinstance(arguments, tuple) and isinstance(arguments[-1], int) and arguments[-1] > 255
        for arguments in tiles
    )


def _has_white_at_zero(image: Image.Image) -> bool:
    return image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _refuse_signed(image: Image.Image, name: str) -> None:
    """Refuse bytes with a sign, which PIL takes for bytes without."""
    if image.format != "TIFF" or image.mode in ("F", "I"):
        return
    formats = image.tag_v2.get(SAMPLE_FORMAT, ())
    if WITH_SIGN in (formats if isinstance(formats, tuple) else (formats,)):
        raise UserError(
            f"{name} holds integers with a sign, and nothing says which are black and white; {CURE}"
        )


def _from_shares(image: Image.Image, name: str) -> tuple[Image.Image, int]:
    """An image of floating-point values, of which 0 is black and 1 white, and the largest."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:  # nor where one is no number
        raise UserError(
            f"{name} holds floating-point values from {low:g} to {high:g}, and only where they are "
            f"0 to 1 is it known which are black and white; {CURE}"
        )
    values = values.clip(0, 1)
    largest = round(float(values.max()) * FULL_RANGE)
    if _has_white_at_zero(image):
        values = 1 - values
    return Image.fromarray((values * 255).round().astype(np.uint8)), largest


def _from_integers(image: Image.Image, bits: int, name: str) -> tuple[Image.Image, int, bool]:
    """An image of grey values of more than 8 bits, the largest, and whether any is transparent.

    PIL reads PGM of more than 8 bits as 32 bits, scaled to 16.
    """
    values = np.asarray(image)
    if image.mode == "I" and image.format != "PPM":
        raise UserError(
            f"{name} holds integers of 32 bits or with a sign, from {values.min()} to "
            f"{values.max()}, and nothing says which are black and white; "
            f"{CURE}"
        )
    values = values.astype(np.uint16) << (16 - bits)
    key = image.info.get("transparency")
    is_transparent = isinstance(key, int) and bool((values == key).any())
    largest = int(values.max())
    if _has_white_at_zero(image):
        values = FULL_RANGE - values
    if is_transparent:
        values = np.where(values == key, FULL_RANGE, values)
    return Image.fromarray((values >> 8).astype(np.uint8)), largest, is_transparent


def _on_background(image: Image.Image) -> tuple[Image.Image, bool]:
    """An image without transparency, and whether it had any pixel that is not opaque."""
    colours = image.convert("RGBA")
    opacity = colours.getchannel("A")
    if opacity.getextrema()[0] == 255:
        return image, False
    background = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(background, colours).convert("RGB"), True


class ImageCheck(Counted):
    """Reads images once before they are used, and collects what reading them changes."""

    def __init__(self):
        super().__init__()
        self.part = "all"  # of the data, which the images that follow are of
        self.brightest: dict[str, tuple[int, str]] = {}  # of each part's files of more than 8 bits

    def read(self, file: File, mode: Mode) -> Image.Image:
        """``read_image``, remembered."""
        reading = examine(file, mode)
        for change in reading.changes:
            self.add(f"image(s) {change}", _name(file))
        if reading.largest is not None:
            known = self.brightest.get(self.part, (0, ""))
            self.brightest[self.part] = max(known, (reading.largest, _name(file)))
        return reading.image

    def refuse_dim(self) -> list[str]:
        """Refuse data of more than 8 bits that use a small part of them: all would be nearly black.

        No image can be judged alone, since a dark one among bright ones is meant to be dark.

        Returns:
            Warnings of parts of the data that are dim beside the others.

        Raises:
            UserError: names the brightest file.
        """
        dim = {part: at for part, at in self.brightest.items() if at[0] <= DIM_RANGE}
        if dim and len(dim) == len(self.brightest):
            largest, name = max(dim.values())
            raise UserError(
                f"{name} has the brightest pixel, {largest}, of all images of more than 8 bits a "
                f"channel, where white is {FULL_RANGE}: they use {largest.bit_length()} bits of 16 "
                f"and would be read as nearly black; {CURE}"
            )
        return [
            f"warning: {name} has the brightest pixel, {largest} of {FULL_RANGE}, of the {part} "
            "images of more than 8 bits a channel: beside the others these are nearly black; "
            f"{CURE}"
            for part, (largest, name) in dim.items()
        ]
