"""Pascal VOC's XML files in COCO's format: corners, difficult objects, and what tools leave out."""

import json
import sys

import pytest
from PIL import Image

pytest.importorskip("pycocotools")

from benchmarks.__main__ import main
from benchmarks.detection.voc import convert
from manifold.errors import UserError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def voc_object(*corners, name="cell", difficult=0):
    return OBJECT.format(*corners, name=name, difficult=difficult)


@pytest.fixture
def voc(tmp_path):
    """Write XML files by their names, each with its image, and return both folders."""

    def write(**files):
        for folder in ("xml", "images"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name, inside in files.items():
            text = f"<annotation>{inside}</annotation>"
            (tmp_path / f"xml/{name}.xml").write_text(text, encoding="utf-8")
            Image.new("RGB", (40, 30)).save(tmp_path / f"images/{name}.jpg")
        return tmp_path / "xml", tmp_path / "images"

    return write


def named(name):
    return f"<filename>{name}</filename>"


def test_boxes_are_those_of_voc(voc):
    made = convert(
        *voc(
            b=named("b.jpg") + SIZE + voc_object(1, 1, 40, 30) + voc_object(2, 3, 2, 3, name="a"),
            a=named("a.jpg") + SIZE + voc_object(5, 6, 9, 16, difficult=1),
        )
    )
    assert [entry["file_name"] for entry in made["images"]] == ["a.jpg", "b.jpg"]
    assert [entry["name"] for entry in made["categories"]] == ["a", "cell"]
    assert [
        (e["image_id"], e["category_id"], e["bbox"], e["iscrowd"]) for e in made["annotations"]
    ] == [
        (1, 2, [4, 5, 5, 11], 1),
        (2, 2, [0, 0, 40, 30], 0),
        (2, 1, [1, 2, 1, 1], 0),
    ]


@pytest.mark.parametrize(
    "inside",
    [
        named("a.jpg") + SIZE,
        named("a") + SIZE,  # without a suffix
        named("C:\\photos\\a.jpg") + SIZE,
        named("old name.jpg") + SIZE,
        SIZE,  # without a name
        named("a.jpg"),  # without a size
        named("a.jpg") + SIZE.replace("40", "0"),
        named("a.jpg") + SIZE.replace("40", "²"),
    ],
)
def test_what_tools_leave_out_is_found(voc, inside):
    made = convert(*voc(a=inside + voc_object(1, 1, 4, 4)))
    assert made["images"] == [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}]


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (SIZE, "no <object> in 1 file"),
        ("<object>", "a.xml cannot be read as XML: mismatched tag"),
        (SIZE + "<object><name> </name></object>", "a.xml: an <object> has no <name>"),
        (SIZE + "<object><name>x</name></object>", r"a.xml: an object 'x' needs a <bndbox>"),
        (SIZE + voc_object("inf", 1, 2, 3), r"a.xml: .*'x?cell' must hold finite corners.*'inf'"),
        (SIZE + voc_object(1, "nan", 2, 3), r"must hold finite corners"),
        (SIZE + voc_object(9, 9, 2, 3), r"xmin ≤ xmax and ymin ≤ ymax, got .*'9'"),
        (SIZE + voc_object(1, 1, 2, 3, difficult="maybe"), r"<difficult> must be .*'maybe'"),
        (SIZE + voc_object("left", 1, 2, 3), r"needs a <bndbox> with the numbers .*'left'"),
    ],
)
def test_what_is_no_voc_is_named(voc, inside, words):
    with pytest.raises(UserError, match=words):
        convert(*voc(a=inside))


def test_an_unknown_encoding_is_named(voc):
    xml, images = voc(a=SIZE + voc_object(1, 1, 4, 4))
    text = (xml / "a.xml").read_text(encoding="utf-8")
    (xml / "a.xml").write_text(f'<?xml version="1.0" encoding="nonsense"?>{text}', encoding="utf-8")
    with pytest.raises(UserError, match=r"a.xml cannot be read as XML: .*encoding"):
        convert(xml, images)


def test_words_of_truth_and_names_given_twice(voc):
    made = convert(*voc(a=SIZE + voc_object(1, 1, 4, 4, difficult=" True ")), ["a", "a"])
    assert [entry["iscrowd"] for entry in made["annotations"]] == [1]
    assert len(made["images"]) == 1


def test_a_missing_image_or_file_is_named(voc):
    xml, images = voc(a=SIZE + voc_object(1, 1, 4, 4))
    with pytest.raises(UserError, match=r"b.xml cannot be read as XML: No such file"):
        convert(xml, images, ["a", "b"])
    (images / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a.xml: no image .*a.jpg"):
        convert(xml, images)


def test_the_command_writes_the_files_of_a_split(voc, tmp_path, monkeypatch, capsys):
    first, second = (SIZE + voc_object(1, 1, 4, 4, difficult=d) for d in (0, 1))
    xml, images = voc(a=first, b=second, c=first)
    names, output = tmp_path / "train.txt", tmp_path / "train.json"
    names.write_text("a\nb  1\n\n", encoding="utf-8")
    words = [str(xml), str(images), str(output), "--names", str(names)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "voc-to-coco", *words])
    main()
    assert len(json.loads(output.read_text(encoding="utf-8"))["images"]) == 2
    told = capsys.readouterr().err
    assert "2 images, 2 annotations, 1 categories; 1 difficult object(s) as crowds" in told
