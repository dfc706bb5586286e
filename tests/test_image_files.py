"""The one reader of image files: what people bring is read as they mean it, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from manifold.errors import UserError
from manifold.image_files import (
    COMPOSITED,
    FIRST_OF_SEVERAL,
    SCALED,
    TURNED,
    ImageCheck,
    examine,
    read_image,
    size_as_shown,
)

WHITE, RED = (255, 255, 255), (200, 40, 10)
ORIENTATION = 0x0112


def written(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def pixels(path, mode="RGB"):
    return np.asarray(read_image(path, mode))


# ---- what is ordinary stays, byte for byte ---------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("stored", ["1", "L", "RGB", "P", "CMYK", "YCbCr", "opaque RGBA", "LA"])
def test_an_ordinary_image_is_what_pil_converts_it_to(stored, mode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(stored.split()[-1])
    suffix = ".tif" if stored in ("CMYK", "YCbCr") else ".png"
    path = written(tmp_path, image, f"image{suffix}")
    reading = examine(path, mode)
    assert reading.changes == [] and reading.image.mode == mode
    with Image.open(path) as opened:
        assert reading.image.tobytes() == opened.convert(mode).tobytes()


def test_an_open_file_is_read_as_its_path_is(tmp_path):
    path = written(tmp_path, Image.new("RGB", (3, 2), RED), "a.png")
    assert read_image(io.BytesIO(path.read_bytes()), "RGB").tobytes() == pixels(path).tobytes()


# ---- turned ----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["L", "I;16"])
def test_an_uncompressed_tiff_is_turned_as_a_compressed_one_is(kind, orientation, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (40, 64))
    scale, dtype = (1, np.uint8) if kind == "L" else (256, np.uint16)
    image, exif = Image.fromarray((values * scale).astype(dtype)), Image.Exif()
    exif[ORIENTATION] = orientation
    plain, packed = (
        read_image(written(tmp_path, image, f"{name}.tif", exif=exif, **options), "L")
        for name, options in (("plain", {}), ("packed", {"compression": "tiff_lzw"}))
    )
    assert plain.size == (40, 64) and plain.tobytes() == packed.tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stands_as_its_exif_orientation_says(orientation, suffix, tmp_path):
    """EXIF 4.6.5: the sides of the scene at which the stored first row and first column are."""
    rows, columns = {
        **{1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left")},
        **{5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")},
    }[orientation]
    stored = np.zeros((32, 48, 3), dtype=np.uint8)
    stored[:8] = [200, 0, 0]
    stored[:, :8, 2] = 200
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = written(tmp_path, Image.fromarray(stored), f"image.{suffix}", exif=exif)
    upright = pixels(path).astype(int)
    sides = {
        "top": upright[2],
        "bottom": upright[-3],
        "left": upright[:, 2],
        "right": upright[:, -3],
    }
    assert sides[rows][:, 0].mean() > 150
    assert sides[columns][:, 2].mean() > 150
    assert upright.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    assert size_as_shown(path) == [*upright.shape[1::-1]]
    assert examine(path, "L").changes == ([TURNED] if orientation > 1 else [])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_notes_do_not_cost_an_image_that_is_whole(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 30
    path = written(tmp_path, Image.new("RGB", (16, 8), RED), "a.jpg", exif=exif)
    assert pixels(path).shape == (8, 16, 3)
    assert size_as_shown(path) == [16, 8]


# ---- transparent -----------------------------------------------------------------------------


def see_through(mode):
    """The left pixel opaque red (or grey 80), the right one transparent with a hidden colour."""
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "RGBA":
        return image, {}
    if mode == "P":
        palette = Image.new("P", (2, 1))
        palette.putpalette([*RED, 0, 0, 0])
        palette.putpixel((1, 0), 1)
        return palette, {"transparency": 1}
    if mode == "RGB":
        return image.convert("RGB"), {"transparency": (0, 0, 0)}
    if mode == "L":
        return Image.fromarray(np.array([[80, 0]], dtype=np.uint8)), {"transparency": 0}
    return Image.fromarray(np.array([[[80, 255], [0, 0]]], dtype=np.uint8), "LA"), {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_is_white_and_not_its_hidden_colour(mode, tmp_path):
    image, options = see_through(mode)
    path = written(tmp_path, image, "image.png", **options)
    opaque = (80, 80, 80) if mode in ("LA", "L") else RED
    assert pixels(path).tolist() == [[list(opaque), list(WHITE)]]
    assert pixels(path, "L")[0, 1] == 255
    assert examine(path, "RGB").changes == [COMPOSITED]


def test_half_transparent_is_half_white(tmp_path):
    path = written(tmp_path, Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "a.webp", lossless=True)
    assert pixels(path).tolist() == [[[127] * 3]]


# ---- more than 8 bits ------------------------------------------------------------------------

DEEP = np.array([[0, 0x1234, 0x8000, 0xFFFF]], dtype=np.uint16)
SHALLOW = [0, 0x12, 0x80, 0xFF]


def png(depth, kind, raw, *chunks):
    """A PNG file of one row of four pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 4, 1, depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks)]
    parts += [chunk(b"IDAT", zlib.compress(b"\0" + raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_keeps_its_upper_8(suffix, tmp_path):
    path = written(tmp_path, Image.fromarray(DEEP), f"a.{suffix}")
    assert pixels(path, "L").tolist() == [SHALLOW]
    assert examine(path, "L").changes == [SCALED]


@pytest.mark.parametrize("kind", [0, 2, 4, 6], ids=["grey", "colour", "grey + alpha", "colour + a"])
def test_png_of_16_bits_of_every_kind(kind, tmp_path):
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    values = np.repeat(DEEP[0][:, None], samples, axis=1)
    if kind in (4, 6):
        values[:, -1] = 0xFFFF
    (tmp_path / "a.png").write_bytes(png(16, kind, values.astype(">u2").tobytes()))
    reading = examine(tmp_path / "a.png", "RGB")
    assert np.asarray(reading.image).tolist() == [[[value] * 3 for value in SHALLOW]]
    assert reading.changes == [SCALED] and reading.largest == 0xFFFF


def test_transparent_grey_of_16_bits_is_white(tmp_path):
    key = (b"tRNS", struct.pack(">H", 0x1234))
    (tmp_path / "a.png").write_bytes(png(16, 0, DEEP.astype(">u2").tobytes(), key))
    assert pixels(tmp_path / "a.png", "L").tolist() == [[0, 255, 0x80, 0xFF]]
    assert examine(tmp_path / "a.png", "L").changes == [SCALED, COMPOSITED]


def test_tiff_whose_white_is_zero(tmp_path):
    path = written(tmp_path, Image.fromarray(DEEP), "a.tif", tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    assert pixels(path, "L").tolist() == [[255, 0xED, 0x7F, 0]]


def test_pgm_of_12_bits_says_so_itself(tmp_path):
    values = np.array([0, 0x7FF, 0xFFF], dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5\n3 1\n4095\n" + values.tobytes())
    assert pixels(tmp_path / "a.pgm", "L").tolist() == [[0, 127, 255]]


@pytest.mark.parametrize("white", [4095, 65535])
def test_colour_ppm_of_more_than_8_bits_is_counted(white, tmp_path):
    values = np.repeat(np.array([0, white // 2, white], dtype=">u2"), 3)
    (tmp_path / "a.ppm").write_bytes(b"P6\n3 1\n%d\n" % white + values.tobytes())
    reading = examine(tmp_path / "a.ppm", "L")
    assert np.asarray(reading.image).tolist() == [[0, 127, 255]]
    assert reading.changes == [SCALED] and reading.largest == 0xFFFF
    (tmp_path / "b.ppm").write_bytes(b"P6\n1 1\n255\n\x07\x08\x09")
    assert examine(tmp_path / "b.ppm", "L").changes == []


def test_shares_whose_white_is_zero(tmp_path):
    shares = np.array([[0, 0.25, 1]], dtype=np.float32)
    path = written(tmp_path, Image.fromarray(shares), "a.tif", tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    assert pixels(path, "L").tolist() == [[255, 191, 0]]


def test_bytes_with_a_sign_are_refused(tmp_path):
    path = written(tmp_path, Image.new("L", (2, 2)), "a.tif", tiffinfo={339: 2})
    with Image.open(path) as image:
        assert image.mode == "L" and image.tag_v2[339] in (2, (2,))
    with pytest.raises(UserError, match=r"a.tif holds integers with a sign.*255 \* \(values"):
        read_image(path, "L")


def test_shares_of_one_are_scaled(tmp_path):
    shares = np.array([[0, 0.25, 0.5, 1]], dtype=np.float32)
    path = written(tmp_path, Image.fromarray(shares), "a.tif")
    assert pixels(path, "L").tolist() == [[0, 64, 128, 255]]
    assert examine(path, "L").changes == [SCALED]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 255]], dtype=np.float32), "floating-point values from 0 to 255"),
        (np.array([[-1, 1]], dtype=np.float32), "floating-point values from -1 to 1"),
        (np.array([[0, np.nan]], dtype=np.float32), "floating-point values from nan to nan"),
        (np.array([[0, 255]], dtype=np.int32), "32 bits or with a sign, from 0 to 255"),
        (np.array([[0, 10**6]], dtype=np.int32), "32 bits or with a sign, from 0 to 1000000"),
    ],
)
def test_values_without_a_known_black_and_white_are_refused(values, said, tmp_path):
    path = written(tmp_path, Image.fromarray(values), "odd.tif")
    with pytest.raises(UserError) as caught:
        read_image(path, "RGB")
    for part in (str(path), said, "numpy.uint8(255 * (values - black) / (white - black))"):
        assert part in str(caught.value)


# ---- what is said of a whole data set --------------------------------------------------------


def test_a_dark_image_among_bright_ones_is_meant_to_be_dark(tmp_path):
    check = ImageCheck()
    for number, scale in enumerate((16, 1)):
        check.read(written(tmp_path, Image.fromarray(DEEP // scale), f"{number}.png"), "L")
    assert check.refuse_dim() == []


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_12_bits_in_files_of_16_are_refused_with_the_brightest_file(samples, tmp_path):
    check = ImageCheck()
    for name, values in (("a.png", DEEP // 16), ("b.png", DEEP // 32)):
        content = np.repeat(values[0][:, None], samples, axis=1).astype(">u2")
        if samples in (2, 4):
            content[:, -1] = 0xFFFF  # opaque, which says nothing of how bright it is
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
        (tmp_path / name).write_bytes(png(16, kind, content.tobytes()))
        check.read(tmp_path / name, "RGB")
    with pytest.raises(UserError) as caught:
        check.refuse_dim()
    for part in (f"{tmp_path / 'a.png'} has the brightest pixel, 4095", "they use 12 bits of 16"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["shares", "ppm"])
def test_dim_shares_and_dim_colour_ppm_are_refused_too(kind, tmp_path):
    check = ImageCheck()
    if kind == "shares":
        values = np.array([[0, 0.01]], dtype=np.float32)
        path = written(tmp_path, Image.fromarray(values), "a.tif")
    else:
        path = tmp_path / "a.ppm"
        path.write_bytes(b"P6\n1 1\n65535\n" + np.full(3, 4095, dtype=">u2").tobytes())
    check.read(path, "L")
    with pytest.raises(UserError, match=f"{path} has the brightest pixel"):
        check.refuse_dim()


def test_changes_are_counted_and_the_first_file_is_named(tmp_path):
    check = ImageCheck()
    for name in ("a.png", "b.png"):
        check.read(written(tmp_path, see_through("RGBA")[0], name), "RGB")
    frames = [Image.new("L", (4, 4), value) for value in (0, 9)]
    path = written(tmp_path, frames[0], "c.tif", save_all=True, append_images=frames[1:])
    check.read(path, "L")
    assert check.words() == [
        f"2 image(s) {COMPOSITED}, the first {tmp_path / 'a.png'}",
        f"1 image(s) {FIRST_OF_SEVERAL}, the first {path}",
    ]
