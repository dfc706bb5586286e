"""The check before all compute: what is asked for is built and tried once, and nothing else."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence import checked
from benchmarks.evidence import preflight as module
from benchmarks.evidence.preflight import preflight
from manifold.errors import UserError
from manifold.settings import resolve, to_plain
from manifold.settings.sources import _shared_modules, source_hash
from manifold.training.runs import teacher_setting
from manifold.training.train import train

pytestmark = pytest.mark.slow

TABLE_1 = ["table1"]
PAIR = "deit-cait"


def recipe(name="A", **changes):
    return {"recipes": {name: changes}}


def student(**arguments):
    return {"pairs": {PAIR: {"student": {"arguments": arguments}}}}


MINE = """
from manifold.distiller import Distiller


class Mine(Distiller):
    def __init__(self, *networks, weight: float, **common):
        {construct}
        super().__init__(*networks, **common)

    def terms(self, student, teacher, targets):
        {compute}
"""
FINE = {"construct": "pass", "compute": "return self.soft_kd(student, teacher, targets)"}


@pytest.fixture
def own_method(tmp_path_factory, monkeypatch):
    """Put a method of one's own beside the packages; returns what defines it."""

    def write(text):
        folder = tmp_path_factory.mktemp("own")
        name = f"mine_{folder.name.replace('-', '_')}"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        definition = {
            "title": "Mine",
            "distiller": f"{name}:Mine",
            "arguments": {"weight": 0.1},
            "student": "student",
            "source": "none",
        }
        return {"methods": ["soft_kd", "mine"], "method_definitions": {"mine": definition}}

    return write


def refused(experiment, words, names=TABLE_1):
    with pytest.raises(UserError) as error:
        preflight(experiment, names)
    assert [word for word in words if word not in str(error.value)] == []
    return str(error.value)


# ---- what cannot run is told before it costs -------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data": {"image_size": 1}}, ["'deit_tiny_patch16_224'", "2×2", "1×1", "data.image_size"]),
        (student(patch_size=16), ["'deit_tiny_patch16_224'", "16×16", "8×8", "patch_size"]),
        (student(num_heads=0), ["'deit_tiny_patch16_224'", "num_heads"]),
        (
            recipe(drop_path=0.0) | student(drop_path_rate=2),
            ["'none', 'soft_kd', 'fitnet'", "first step", "bernoulli"],
        ),
        (student(depth=0), ["'deit_tiny_patch16_224'", "has no block"]),
        ({"data": {"image_size": 7}}, ["patches of 2×2", "7×7 are no multiple", "data.image_size"]),
        (student(depth="four"), ["'deit_tiny_patch16_224'", "four"]),
        (
            recipe(augmentation={"auto_augment": "nonsense"}),
            ["recipes.A", "augmentation", "'nonsense'", "rand-m9-mstd0.5-inc1"],
        ),
        (recipe(augmentation={"auto_augment": "rand-q9"}), ["recipes.A", "'rand-q9'"]),
        (recipe(optimizer={"name": "adamx"}), ["recipes.A", "adamx", "Did you mean"]),
        (recipe(optimizer={"name": "sgd"}), ["recipes.A", "betas must be null for sgd"]),
        (
            recipe(optimizer={"name": "sgd", "betas": None, "epsilon": 1e-8}),
            ["recipes.A", "epsilon must be null for sgd"],
        ),
        (recipe(optimizer={"name": "adan"}), ["recipes.A", "betas must be 3 numbers for adan"]),
        (recipe(optimizer={"betas": [0.9, 0.99, 0.9]}), ["recipes.A", "betas must be 2 numbers"]),
        (recipe(optimizer={"name": "lamb"}) | {"machine": {"fused_optimizer": True}}, ["fused"]),
        (recipe(schedule={"warmup_epochs": 5}, batch_size=5000), ["warmup_epochs 5", "5000"]),
        ({"machine": {"compile": "nonsense"}}, ["machine.compile", "'nonsense'", "inductor"]),
        ({"machine": {"processes": 3}}, ["recipes.A.shards", "3 processes"]),
        ({"machine": {"shards_per_pass": 2}}, ["machine.shards_per_pass", "2"]),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_by_what_is_to_be_corrected(experiment, overrides, words):
    if "warmup_epochs" in str(overrides):
        overrides = {**overrides, "table1": {"epochs": 4}, "ablation": {"epochs": 9}}
    told = refused(experiment(**overrides), words)
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Mine(:\n    pass\n", ["'mine'", "SyntaxError", "line 1"]),
        (
            "import nothing_of_that_name\n",
            ["'mine'", "ModuleNotFoundError", "nothing_of_that_name"],
        ),
        ("Mine = 1 / 0\n", ["'mine'", "ZeroDivisionError", "line 1"]),
        ("Mine = 3\n", ["'mine'", "is not a manifold.Distiller"]),
        (MINE.format(**FINE | {"construct": "weight['a']"}), ["'mine'", "TypeError", "line 7"]),
        (
            MINE.format(**FINE | {"compute": "return {'a': student.logits @ teacher.logits}"}),
            ["'mine'", "first step", "RuntimeError", "line 11"],
        ),
        (
            MINE.format(**FINE | {"compute": "return {'a': student.logits.sum() / 0}"}),
            ["'mine'", "'a'", "inf"],
        ),
        (MINE.format(**FINE | {"compute": "return {}"}), ["'mine'", "first step"]),
    ],
)
def test_a_method_of_ones_own_is_tried(experiment, own_method, text, words):
    told = refused(experiment(**own_method(text)), words)
    assert "'soft_kd'" not in told


def test_a_method_of_ones_own_that_works_passes(experiment, own_method):
    found = preflight(experiment(**own_method(MINE.format(**FINE))), TABLE_1)
    assert list(found["pairs"][PAIR]["methods"]) == ["soft_kd", "mine"]


def test_all_that_is_wrong_is_told_at_once(experiment):
    wrong = recipe(augmentation={"auto_augment": "nonsense"}, optimizer={"name": "adamx"})
    wrong |= {"machine": {"compile": "nonsense"}}
    words = ["'nonsense'", "adamx", "machine.compile"]
    told = refused(experiment(**wrong), ["3 things are wrong", *words])
    assert told.count("timm has no optimizer 'adamx'") == 1  # and not for every method


# ---- only what is asked for ------------------------------------------------------------------


def test_only_what_the_asked_study_uses_is_checked(experiment):
    made = experiment(**recipe("B", batch_size=2000, augmentation={"auto_augment": "nonsense"}))
    preflight(made, TABLE_1)
    refused(made, ["recipes.B.batch_size 2000", "'nonsense'"], ["recipes"])
    missing = experiment(transfer={"data": {"faces": {"dataset": "folder", "folder": "/nowhere"}}})
    preflight(missing, TABLE_1)
    refused(missing, ["transfer.data.faces", "/nowhere/train"], ["transfer"])


def test_an_unknown_study_is_refused(experiment):
    refused(experiment(), ["'tabel1'", "'table1'"], ["tabel1"])


def test_the_data_of_every_study_are_checked_before_students_are_there(experiment, tmp_path):
    pytest.importorskip("pycocotools")
    annotations = tmp_path / "annotations.json"
    image = {"id": 1, "file_name": "a.png", "width": 8, "height": 8}
    broken = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 4]}
    content = {"images": [image], "categories": [{"id": 1, "name": "dog"}]}
    annotations.write_text(json.dumps({**content, "annotations": [broken]}), encoding="utf-8")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    folder = {
        **dict.fromkeys(("train_images", "test_images"), str(tmp_path)),
        **dict.fromkeys(("train_annotations", "test_annotations"), str(annotations)),
    }
    data = {"scenes": None, "folder": folder, "masks": False}
    made = experiment(detection={"data": data})
    preflight(made, TABLE_1)
    refused(made, [str(annotations), "annotation 7", "no area"], ["detection"])


def test_a_run_asks_for_the_studies_that_its_files_belong_to(experiment):
    made = experiment()
    studies = made.studies

    def asked(*paths):
        return checked.asked_studies(made, map(str, paths))

    assert asked(*studies["table1"].files(), *studies["table1"].cells()) == ["table1"]
    assert asked(*studies["bench"].files(), *studies["bench"].cells()) == ["bench"]
    both = (*studies["table1"].files()[:1], *studies["transfer"].results()[:1])
    assert asked(*both) == ["table1", "transfer"]
    assert asked(studies["table1"].cells()[0]) == ["table1"]
    assert asked(made.cell_directory(PAIR, "B", 1, "fitnet", 0) / "run.json") == ["recipes"]
    assert asked(made.teacher_directory(PAIR) / "evaluation.json") == ["table1"]
    assert asked(made.teacher_directory("untrained-teacher") / "untrained.json") == ["ablation"]
    assert asked("anything") == []


def test_the_hierarchical_pair_of_mini_takes_a_step_of_every_method(experiment):
    """On digits, resized to Fashion-MNIST's 28 × 28."""
    mini = resolve({"scale": "mini"})
    pair = to_plain(mini.pairs["swin-swin"])
    pair["teacher"] |= {"weights": "untrained", "recipe": None, "epochs": None}
    made = experiment(
        data={"image_size": 28},
        pairs={"swin-swin": pair},
        hierarchical=to_plain(mini.hierarchical),
    )
    found = preflight(made, ["hierarchical"])["pairs"]["swin-swin"]["methods"]
    assert list(found) == ["none", "soft_kd", "fitnet", "manifold", "manifold_full"]
    assert found["manifold"]["student_tokens"] == {0: "49 = 7×7", 1: "49 = 7×7"}
    assert found["fitnet"]["auxiliary_parameters"] == 4 * 24 * 4 * 48 + 4 * 48  # merged tokens


def test_the_strong_teacher_of_mini_and_its_students_take_a_step(experiment):
    """RandAugment on grey images, and mixing, under the recipe of the teacher."""
    mini = resolve({"scale": "mini"})
    strong = mini.pairs["deit-strong-cait"]
    assert strong.student == mini.pairs["deit-cait"].student
    made = experiment(
        data={"image_size": 28},
        pairs={"deit-strong-cait": to_plain(strong)},
        recipes={"strong-teacher": "config/recipes/mini-strong-teacher.yaml"},
        budgets={"pair": "deit-strong-cait", "epochs": [1, 2]},
    )
    found = preflight(made, ["budgets"])["pairs"]["deit-strong-cait"]
    assert found["methods"]["manifold"]["teacher_tokens"] == {n: "16 = 4×4" for n in (0, 1, 6, 7)}


# ---- once ------------------------------------------------------------------------------------


def run_check(experiment, record, monkeypatch, *studies):
    words = ["benchmarks preflight", "--output", str(record), "--studies", *studies]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(module.command, "experiment", lambda options: experiment)
    module.main()


def test_a_study_is_checked_once_until_something_that_it_needs_changes(
    experiment, own_method, tmp_path, monkeypatch, capsys
):
    record = tmp_path / "preflight.json"
    given = own_method(MINE.format(**FINE))
    made = experiment(**given)
    both = ["table1", "recipes"]
    assert checked.unchecked(made, both, record) == both
    run_check(made, record, monkeypatch, "table1")
    assert "nothing trained: table1; 1,237 train" in capsys.readouterr().err
    assert checked.unchecked(made, both, record) == ["recipes"]
    run_check(made, record, monkeypatch, "recipes")
    assert checked.unchecked(made, both, record) == []
    methods = json.loads(record.read_text(encoding="utf-8"))["pairs"][PAIR]["methods"]
    assert {"mine", "soft_kd", "manifold"} <= methods.keys()
    assert checked.unchecked(experiment(**given, seeds=[7, 8]), both, record) == []
    budget = experiment(**given, recipe_study={"epochs": [1, 3]})
    assert checked.unchecked(budget, both, record) == ["recipes"]
    for change in (recipe(drop_path=0.2), {"machine": {"channels_last": True}}):
        assert checked.unchecked(experiment(**given, **change), both, record) == both
    record.write_text(record.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    assert checked.unchecked(made, both, record) == both


@pytest.mark.parametrize("edit", ["\nEDITED = True\n", "\nclass\n"])
def test_a_method_of_ones_own_is_checked_again_after_an_edit(
    experiment, own_method, tmp_path, monkeypatch, edit
):
    given = own_method(MINE.format(**FINE))
    made, record = experiment(**given), tmp_path / "preflight.json"
    run_check(made, record, monkeypatch, "table1")
    assert checked.unchecked(made, TABLE_1, record) == []
    name = given["method_definitions"]["mine"]["distiller"].partition(":")[0]
    with open(sys.modules[name].__file__, "a", encoding="utf-8") as file:
        file.write(edit)
    for known in (_shared_modules, source_hash):
        known.cache_clear()  # as another process would read it
    assert checked.unchecked(made, TABLE_1, record) == TABLE_1


# ---- a folder of one's own -------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    """Return the scale ``folder`` with so many photographs of two classes to train on."""

    def make(count, **overrides):
        for split, number in (("train", count), ("val", 4)):
            for grey, name in ((60, "oak"), (180, "elm")):
                (tmp_path / "trees" / split / name).mkdir(parents=True)
                for index in range(number):
                    image = Image.new("RGB", (40 + index, 30), (grey, 5 * index, 0))
                    image.save(tmp_path / f"trees/{split}/{name}/{index}.jpg")
        data = {"folder": str(tmp_path / "trees"), **overrides}
        return resolve({"scale": "folder", "results": str(tmp_path / "results"), "data": data})

    return make


@pytest.mark.parametrize("count", [2, 16, 100])
def test_a_small_folder_passes_with_the_scales_own_numbers(photographs, count):
    found = preflight(photographs(count), TABLE_1)
    held_out = 2 * max(1, round(count / 10))
    assert found["splits"] == {"train": 2 * count - held_out, "validation": held_out, "test": 8}
    assert len(found["pairs"][PAIR]["methods"]) == 9


def test_two_classes_are_enough_for_every_method_of_the_bench(photographs):
    made = photographs(4)
    found = preflight(made, ["bench"])
    assert len(found["classes"]) == 2
    assert set(found["pairs"][PAIR]["methods"]) == {*made.methods, *made.bench.methods}


def test_a_batch_that_stays_too_large_asks_for_more_than_is_set(photographs):
    refused(photographs(16, least_images_per_epoch=64), ["or raise least_images_per_epoch", "(64)"])


def test_a_small_folder_that_is_gone_through_once_is_told_every_batch_that_is_too_large(
    photographs,
):
    made = photographs(16, least_images_per_epoch=None)
    told = refused(made, ["2 things", "recipes.A.batch_size 64", "recipes.teacher.batch_size 128"])
    assert "recipes.B" not in told and told.count("least_images_per_epoch") == 2


def test_a_number_of_held_out_images_is_refused_by_what_there_is(photographs):
    refused(photographs(100, validation=500), ["data.validation 500", "200 training images", "0.1"])


def test_an_epoch_of_a_small_split_shows_as_many_images_as_are_asked_for(experiment):
    data = {"validation": 1407, "least_images_per_epoch": 96}  # 30 images to train on
    teacher = {"teacher": {"epochs": 2}}
    made = experiment(data=data, pairs={PAIR: teacher}, **recipe(batch_size=32))
    train(*teacher_setting(made, PAIR))
    record = json.loads((made.teacher_directory(PAIR) / "run.json").read_text(encoding="utf-8"))
    assert record["splits"]["train"] == 30 and record["images_seen"] == 2 * 96
    assert 2 / 32 <= record["duplicate_share"] < 0.5  # a batch of 32 has two images twice at least
