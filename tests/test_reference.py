"""config/README.md and the schemas are what the models say; scales are what the schemas say."""

import json

import jsonschema
import pytest
import yaml

from manifold.settings import ROOT, reference, resolve

CONFIG = ROOT / "config"


@pytest.mark.parametrize(("name", "text"), reference.texts().items())
def test_what_is_written_is_what_the_models_say(name, text):
    assert (CONFIG / name).read_text(encoding="utf-8") == text, (
        "run: python -m manifold describe-settings"
    )


def test_every_key_has_a_meaning():
    """A row without the last cell is a field without a line below it."""
    rows = [
        line
        for line in (CONFIG / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 150
    assert [row for row in rows if row.rstrip().endswith("|  |")] == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("batch_size", ["integer", "`64`", "≥ 1"]),
        ("alpha", ["number", "`1.0`", "≥ 0, ≤ 1"]),
        ("precision", ["`float32`, `bfloat16`, `float16`"]),
        ("clip_norm", ["number or null", "≥ 1e-06"]),
        ("draws", ["`5`", "≥ 1", "few-shot"]),
    ],
)
def test_a_row_says_type_default_bounds_and_meaning(key, words):
    text = (CONFIG / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
    assert any(all(word in row for word in words) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scales", "recipes"])
def test_every_shipped_file_is_valid_and_names_its_schema(kind):
    schema = json.loads(
        (CONFIG / f"schema/{kind.removesuffix('s')}.json").read_text(encoding="utf-8")
    )
    for path in sorted((CONFIG / kind).glob("*.yaml")):
        jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)
        line = f"# yaml-language-server: $schema=../schema/{kind.removesuffix('s')}.json"
        assert path.read_text(encoding="utf-8").startswith(f"{line}\n"), path


@pytest.mark.slow
@pytest.mark.parametrize(
    "scale",
    [
        {"sedes": [0, 1]},
        {"data": {"chanels": 1}},
        {"data": {"channels": 2}},
        {"recipes": {"A": {"batch_size": 0}}},
        {"recipes": {"A": {"optimizer": {"learning_rat": 1}}}},
        {"ablation": {"epoch": 2}},
        {"mine": {"no": "study"}},
    ],
)
def test_the_schema_refuses_what_resolving_refuses(scale):
    schema = json.loads((CONFIG / "schema/scale.json").read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scale, schema)
    with pytest.raises(ValueError):
        resolve({"scale": "smoke", **scale})


@pytest.mark.slow
def test_the_schema_takes_what_may_be_written():
    schema = json.loads((CONFIG / "schema/scale.json").read_text(encoding="utf-8"))
    for scale in (
        {"extends": "mini", "name": None, "ablation": None},
        {
            "recipes": {
                "C": "config/recipes/mini.yaml",
                "D": {"extends": "x.yaml", "drop_path": 0.1},
            }
        },
        {"spread": {"study": "spread:Spread", "anything": 3}},
    ):
        jsonschema.validate(scale, schema)
