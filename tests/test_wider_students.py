"""Students and teachers of other kinds than the bench's: trained, loaded, carried on, refused."""

import csv

import pytest
import timm
import torch
from safetensors.torch import load_file

from benchmarks.evidence.preflight import preflight
from benchmarks.table1.measure import TOKENS, tokens_of
from benchmarks.transfer.probes import network_of
from benchmarks.transfer.students import Student
from manifold.errors import UserError
from manifold.models import count_parameters
from manifold.settings import resolve
from manifold.training import train
from manifold.training.cells import student_model
from manifold.training.records import read_run
from manifold.training.untrained import initialise

PAIR = "deit-deit"
METHODS = ["soft_kd", "lift", "soft_kd_lift", "wide_last", "soft_kd_wide_last", "cls_kd", "proteus"]
STUDENTS = {
    "lift": "lifted_student",
    "soft_kd_lift": "lifted_student",
    "wide_last": "widened_student",
    "soft_kd_wide_last": "widened_student",
}
TERMS = {
    "lift": {"cross_entropy", "kl", "spectrum"},
    "wide_last": {"cross_entropy", "kl", "features"},
    "cls_kd": {"cross_entropy", "kl", "class_tokens", "maps"},
    "proteus": {"cross_entropy", "token", "feature", "patch"},
}
pytestmark = pytest.mark.slow


def made_in(folder, **changes):
    """The smoke scale on a pair whose teacher has a class token in every block."""
    untrained = {"weights": "untrained", "recipe": None, "epochs": None}
    studies = ("recipe_study", "budgets", "ablation", "detection")
    return resolve(
        {
            "scale": "smoke",
            "results": str(folder),
            "name": "wider",
            "data": {"validation": 1181},  # leaves 256 images to train on
            "pairs": {PAIR: {"teacher": untrained}},
            "methods": METHODS,
            "table1": {"pairs": [PAIR], "epochs": 1, "claims": {}},
            "bench": {"methods": []},
            "transfer": {"pair": PAIR, "epochs": 1, "methods": METHODS},
            **dict.fromkeys(studies),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = made_in(tmp_path_factory.mktemp("wider"))
    initialise(made, PAIR)
    for recipe in ("A", "B"):
        train.train(*train.student_setting(made, PAIR, recipe, 1, METHODS, 0))
    return made


@pytest.mark.parametrize("recipe", ["A", "B"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_and_its_student_is_made_by_timm_from_its_record(method, recipe, trained):
    folder = trained.cell_directory(PAIR, recipe, 1, method, 0)
    record = read_run(folder / "run.json")
    kept = record["configuration"]
    assert kept["student"] == STUDENTS.get(method, "student")
    model = kept["pair"][kept["student"]]
    network = timm.create_model(
        model["name"], in_chans=1, img_size=8, num_classes=10, **model["arguments"]
    )
    network.load_state_dict(load_file(folder / "student.safetensors"))
    assert record["resolved"]["parameters"] == count_parameters(network)
    assert network(torch.zeros(2, 1, 8, 8)).isfinite().all()
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert TERMS.get(method, {"kl"}) <= {name for name, value in row.items() if value}


def test_only_methods_of_a_wider_student_have_it_in_their_identity(trained):
    for method in METHODS:
        pair = trained.cell_identity(PAIR, "A", 1, method, 0)["pair"]
        wider = {"lifted_student", "widened_student"} & set(pair)
        assert wider == {STUDENTS[method]} if method in STUDENTS else wider == set()


def test_a_wider_student_weighs_more_and_its_row_says_what_it_is(trained):
    sizes = {}
    for method in METHODS:
        record = read_run(trained.cell_directory(PAIR, "A", 1, method, 0) / "run.json")
        sizes[method] = record["resolved"]["parameters"]
    assert sizes["soft_kd"] == sizes["cls_kd"] == sizes["proteus"]
    assert sizes["soft_kd"] < sizes["lift"] == sizes["soft_kd_lift"]
    assert sizes["lift"] < sizes["wide_last"] == sizes["soft_kd_wide_last"]
    assert TOKENS["lifted_student"] == "patch, lifted"
    imagenet = resolve({"scale": "imagenet"})
    pairs = ("deit_tiny-cait_s24", "swin_tiny-swin_small")
    of = {pair: [tokens_of(imagenet, pair, name) for name in ("soft_kd", None)] for pair in pairs}
    assert of == {pairs[0]: ["patch + class"] * 2, pairs[1]: ["patch"] * 2}
    assert TOKENS["widened_student"] == "patch + class, widened"


def test_wider_students_are_carried_over_to_other_data(trained):
    for method in METHODS:
        definition = trained.method_definitions[method]
        model = student_model(trained.pairs[PAIR], PAIR, method, definition)
        weights = trained.cell_directory(PAIR, "A", 1, method, 0) / "student.safetensors"
        network = network_of(Student(method, model, weights, 10), (1, 8, 8))
        pooled = network.forward_head(network.forward_features(torch.zeros(2, 1, 8, 8)), True)
        assert pooled.shape == (2, 32 if method in STUDENTS else 24)


def test_preflight_refuses_cls_kd_on_caits_trunk_by_name(tmp_path):
    made = made_in(
        tmp_path,
        methods=["soft_kd", "cls_kd"],
        table1={"pairs": ["untrained-teacher"], "claims": {}},
        pairs={"untrained-teacher": {"methods": None}},
        transfer=None,
    )
    initialise(made, "untrained-teacher")
    with pytest.raises(UserError, match=r"'cls_kd', pair .*class token in every block, and Cait"):
        preflight(made, ["table1"])


def test_preflight_refuses_a_student_that_is_not_as_wide_as_its_teacher(tmp_path):
    narrow = {"arguments": {"last_width": 30}}
    untrained = {"weights": "untrained", "recipe": None, "epochs": None}
    pair = {"teacher": untrained, "lifted_student": narrow, "widened_student": narrow}
    made = made_in(tmp_path, pairs={PAIR: pair}, transfer=None)
    initialise(made, PAIR)
    with pytest.raises(UserError) as error:
        preflight(made, ["table1"])
    for method in ("lift", "wide_last"):
        assert f"'{method}', pair '{PAIR}': the student's last tokens have 30" in str(error.value)


def test_a_pair_without_a_wider_student_is_refused_by_its_key(tmp_path):
    made = made_in(tmp_path, pairs={PAIR: {"lifted_student": None}})
    pair, definition = made.pairs[PAIR], made.method_definitions["lift"]
    with pytest.raises(UserError, match=rf"'lift' needs a student .*pairs.{PAIR}.lifted_student"):
        student_model(pair, PAIR, "lift", definition)
