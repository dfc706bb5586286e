"""Teachers without a classifier, as DINO's are: who can learn from them, and who is refused."""

import json
import re

import pandas as pd
import pytest
import torch
import yaml

from benchmarks.evidence.preflight import preflight
from manifold.distiller import FrozenTeacher
from manifold.errors import UserError
from manifold.files import write_text
from manifold.models import create_model
from manifold.settings import ROOT, read_yaml, resolve
from manifold.training import train
from manifold.training.cells import Cell, student_model
from manifold.training.records import evaluation_path
from manifold.training.runs import Setting, build_distiller
from manifold.training.teacher import measure
from manifold.training.untrained import initialise

PAIR = "deit-cait"
METHODS = list(read_yaml(ROOT / "config/methods.yaml"))
# Methods that have no use for the teacher's logits.
WITHOUT_LOGITS = {"none", "label_smoothing", "fitnet", "sp", "attention_transfer", "rkd", "crd"}
WITHOUT_LOGITS |= {"cka", "vitkd", "projector_ensemble", "unic", "rsd", "manifold_on_cross_entropy"}
WITHOUT_LOGITS |= {"proteus"}
DINO = {
    "name": "vit_small_patch16_dinov3",
    "arguments": {"patch_size": 2, "embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 0},
}
TAUGHT = ["none", "fitnet", "sp", "manifold_on_cross_entropy", "proteus"]


def words(tmp_path, **changes):
    teacher = {"model": DINO, "weights": "untrained", "recipe": None, "epochs": None}
    return {
        "scale": "smoke",
        "results": str(tmp_path),
        "name": "headless",
        "pairs": {PAIR: {"teacher": teacher}},
        "methods": TAUGHT,
        "table1": {"baseline": "none", "epochs": 1},
        **dict.fromkeys(("recipe_study", "budgets", "ablation", "transfer", "detection", "bench")),
        "segmentation": None,
        **changes,
    }


def test_the_teacher_of_the_docs_is_timms_own_and_has_the_layers_that_it_is_asked_for():
    docs = (ROOT / "docs/running.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"```yaml\n(scale: folder\nname: dino\n.*?)```", docs, flags=re.DOTALL)
    made = resolve(yaml.safe_load(said))
    pair = made.pairs[PAIR]
    network = create_model(pair.teacher.model, (3, 224, 224), 10)
    assert FrozenTeacher(network, 196).is_headless
    assert network.embed_dim == 384 and network.patch_embed.num_patches == 196
    deepest = max(index for layers in pair.layers.values() for index in layers.teacher)
    assert deepest == len(network.blocks) - 1 == 11


@pytest.fixture
def build(tmp_path):
    def make(method, **changes):
        made = resolve(words(tmp_path, **changes))
        pair = made.pairs[PAIR]
        definition = made.method_definitions[method]
        setting = Setting(
            experiment=made,
            pair=pair,
            pair_name=PAIR,
            recipe=made.recipes["A"],
            recipe_name="A",
            epochs=1,
            seed=0,
            teacher_weights=None,
            state=tmp_path / "unused.pt",
        )
        student = student_model(pair, PAIR, method, definition)
        teacher = create_model(pair.teacher.model, setting.image_shape, 10)
        frozen = FrozenTeacher(teacher, pair.most_tokens)
        return build_distiller(setting, Cell(method, definition, student, tmp_path, {}), frozen, 10)

    return make


def test_the_teacher_has_no_classifier_and_its_registers_are_no_patches():
    made = create_model(resolve({"scale": "smoke"}).pairs[PAIR].teacher.model, (1, 8, 8), 10)
    assert not FrozenTeacher(made, 196).is_headless
    model = type(resolve({"scale": "smoke"}).pairs[PAIR].teacher.model)(**DINO)
    network = create_model(model, (1, 8, 8), 10)
    assert FrozenTeacher(network, 196).is_headless and network.num_prefix_tokens == 5


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_methods_that_read_no_logits_learn_from_it_and_the_others_are_refused(method, build):
    if method not in WITHOUT_LOGITS:
        with pytest.raises(UserError, match=rf"{method!r}.*(no classifier|attention|blocks over)"):
            build(method)
        return
    distiller = build(method)
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = distiller(images, torch.tensor([3, 1, 4, 1, 5, 9]), [0])
    result["loss"].backward()
    assert result["loss"].isfinite() and set(result) > {"loss", "output"}


@pytest.mark.parametrize("method", ["fitnet", "manifold"])
def test_the_base_decides_whether_logits_are_read(method, build):
    given = {"method_definitions": {method: {"arguments": {"base": "cross_entropy"}}}}
    assert build(method, **given).base == "cross_entropy"
    given = {"method_definitions": {method: {"arguments": {"base": "soft_kd"}}}}
    with pytest.raises(UserError, match=r"no classifier.*with base: cross_entropy"):
        build(method, **given)


@pytest.mark.slow
def test_a_table_is_made_from_end_to_end(tmp_path):
    made = resolve(words(tmp_path))
    initialise(made, PAIR)
    for seed in made.seeds:
        train.train(*train.student_setting(made, PAIR, "A", 1, TAUGHT, seed))
    measured = measure(made, PAIR)
    assert measured["top1"] is None and measured["parameters"] > 0
    write_text(evaluation_path(made, PAIR), json.dumps(measured))
    made.studies["table1"].write()
    rows = pd.read_csv(made.directory / "table1.csv").set_index("method")
    assert list(rows.index) == [*TAUGHT, "teacher"] and pd.isna(rows.loc["teacher", "top1_mean"])
    text = (made.directory / "table1.md").read_text(encoding="utf-8")
    assert "The teacher of deit-cait has no classifier, and so no accuracy." in text
    assert (made.directory / "table1.png").stat().st_size


@pytest.mark.slow
def test_preflight_names_every_method_that_cannot_learn_from_it(tmp_path):
    made = resolve(words(tmp_path, methods=["none", "soft_kd", "dkd", "manifold"]))
    initialise(made, PAIR)
    with pytest.raises(UserError) as error:
        preflight(made, ["table1"])
    for method in ("soft_kd", "dkd", "manifold"):
        assert f"method {method!r}, pair {PAIR!r}: reads the teacher's logits" in str(error.value)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"teacher": {"model": DINO, "weights": "train"}}, "cannot be trained here"),
        ({"student": {"arguments": {"num_classes": 0}}}, "a student needs its classifier"),
        ({"teacher": {"model": {"arguments": {"num_classes": 7}}}}, "follows from the data"),
    ],
)
def test_classifiers_are_the_datas_or_none(pair, message):
    with pytest.raises(UserError, match=message):
        resolve({"scale": "smoke", "pairs": {PAIR: pair}})
