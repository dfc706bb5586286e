"""The paper's scale, as far as it can be held to the paper without ImageNet and without a GPU.

Recipes, schedule and optimizer groups against the reference code's own values; networks against the
published ones; the rehearsal and the plan of the workflow; and the machine's switches.
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import running
import timm
import torch
from safetensors.torch import load_file
from timm.data.auto_augment import RandAugment, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from benchmarks.evidence.cells import EPOCH_COLUMNS
from benchmarks.rehearsal import run as rehearsal
from benchmarks.rehearsal.networks import check_published, networks
from benchmarks.rehearsal.table import gpu_hours
from manifold.errors import UserError
from manifold.files import write_text
from manifold.models import create_model, save_weights
from manifold.settings import ROOT, LayerMap, Model, StudentKey, resolve, to_plain, to_words
from manifold.tokens import layouts
from manifold.training import teacher, train
from manifold.training.cells import Cell
from manifold.training.cohort import Cohort, Member
from manifold.training.data import evaluation_transform, train_transform
from manifold.training.records import SHARE
from manifold.training.runs import Setting, build_cohort, build_distiller, student_setting

REPORTED = ROOT / "results/reported"
GOLDEN = json.loads((ROOT / "tests/golden/reference_schedule.json").read_text(encoding="utf-8"))
PAPER = resolve({"scale": "imagenet", "networks": str(REPORTED / "networks.csv")})
pytestmark = pytest.mark.slow

PAIR, CLASSES, EPOCHS = "deit-cait", 10, 300
PREFIX = "trainable_module."


# ---- schedule and optimizer, against the reference code ----------------------------------------


@pytest.fixture
def member():
    """A member under a recipe of the paper, without a teacher; by default of the toy student."""

    def make(recipe, steps=1, student=None, size=8, channels=1):
        small = resolve({"scale": "smoke", "data": {"image_size": size}})
        data = small.data.replaced(channels=channels)
        pair, definition = small.pairs[PAIR], small.method_definitions["none"]
        setting = Setting(
            experiment=small.replaced(data=data),
            pair=pair,
            pair_name=PAIR,
            recipe=recipe,
            recipe_name="A",
            epochs=EPOCHS,
            seed=0,
            teacher_weights=None,
            state=Path("unused.pt"),
        )
        cell = Cell("none", definition, student or pair.student, Path("unused"), {})
        distiller = build_distiller(setting, cell, None, CLASSES)
        return Member("none", distiller, recipe, seed=0, epochs=EPOCHS, steps_per_epoch=steps)

    return make


def rates(member, epochs=EPOCHS):
    """The rate at each epoch's first step; the rate of the last step is the same."""
    found = []
    for epoch in range(epochs):
        both = []
        for step in (epoch * member.steps_per_epoch, (epoch + 1) * member.steps_per_epoch - 1):
            member._set_learning_rate(step)
            both.append(member.learning_rate)
            assert {group["lr"] for group in member.optimizer.param_groups} == {both[-1]}
        assert both[0] == both[1]
        found.append(both[0])
    return found


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("recipe", ["A", "B"])
def test_every_epoch_has_the_learning_rate_of_the_reference_code(recipe, steps, member):
    expected = GOLDEN["learning_rate"][recipe]
    assert len(expected) == EPOCHS
    assert rates(member(PAPER.recipes[recipe], steps)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("recipe", "rise"), [("A", 0.998e-4), ("B", 3.998e-4)])
def test_without_the_lag_the_second_epoch_has_the_next_rate(recipe, rise, member):
    made = PAPER.recipes[recipe]
    schedule = made.schedule.replaced(lags_one_epoch=False)
    found = rates(member(made.replaced(schedule=schedule), steps=2))
    assert found[:3] == pytest.approx([1e-6, 1e-6 + rise, 1e-6 + 2 * rise], rel=1e-9)
    assert found[:-1] == pytest.approx(GOLDEN["learning_rate"][recipe][1:], rel=1e-9)


def test_recipe_b_has_the_learning_rates_of_the_public_runs(member):
    curves = pd.read_csv(REPORTED / "public_training_curves.csv")
    own = curves[(curves["method"] == "soft_kd") & (curves["schedule_epochs"] == EPOCHS)]
    assert own["epoch"].tolist() == list(range(1, EPOCHS + 1))
    found = rates(member(PAPER.recipes["B"]))
    assert found == pytest.approx(own["learning_rate"].tolist(), rel=1e-5)


def test_the_optimizer_groups_are_those_of_the_reference_code(member):
    student = Model(name="deit_tiny_patch16_224", arguments={})
    made = member(PAPER.recipes["A"], student=student, size=224, channels=3)
    names = {id(p): name for name, p in made.distiller.named_parameters() if p.requires_grad}
    found = {
        group["weight_decay"]: sorted(names[id(p)].removeprefix(PREFIX) for p in group["params"])
        for group in made.optimizer.param_groups
    }
    assert found == {group["weight_decay"]: sorted(group["params"]) for group in GOLDEN["groups"]}
    assert sum(map(len, found.values())) == len(names)
    assert {tuple(group["betas"]) for group in made.optimizer.param_groups} == {(0.9, 0.999)}
    assert {group["eps"] for group in made.optimizer.param_groups} == {1e-8}
    assert type(made.optimizer).__name__ == "AdamW"
    assert made.distiller.get_trainable_module(ema=True).decay == 0.99996
    assert (made.clip_norm, made.precision) == (None, torch.float16)


# ---- recipes, field by field -------------------------------------------------------------------

RECIPE_A = {
    "batch_size": 512,
    "shards": 8,
    "relational_batch": "shard",
    "repeats": 3,
    "precision": "float16",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 5e-4,
    "optimizer.weight_decay": 0.05,
    "optimizer.epsilon": 1e-8,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.clip_norm": None,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 5,
    "schedule.warmup_learning_rate": 1e-6,
    "schedule.minimum_learning_rate": 1e-5,
    "schedule.per": "epoch",
    "schedule.lags_one_epoch": True,
    "augmentation.scale": [0.08, 1.0],
    "augmentation.ratio": [3 / 4, 4 / 3],
    "augmentation.horizontal_flip": 0.5,
    "augmentation.color_jitter": 0.0,
    "augmentation.auto_augment": "rand-m9-mstd0.5-inc1",
    "augmentation.random_erasing": 0.25,
    "mixing.mixup": 0.8,
    "mixing.cutmix": 1.0,
    "mixing.probability": 1.0,
    "mixing.switch_probability": 0.5,
    "mixing.mode": "batch",
    "label_smoothing": 0.1,
    "drop_path": 0.0,
    "ema_decay": 0.99996,
    "distillation.alpha": 1.0,
    "distillation.temperature": 1.0,
}
B_DIFFERS = {
    "batch_size": 2048,
    "optimizer.learning_rate": 2e-3,
    "mixing": None,
    "distillation.alpha": 0.9,
}


def flat(section, path=""):
    """A recipe as dotted keys."""
    found = {}
    for key, value in to_plain(section).items():
        found |= (
            flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
        )
    return found


def test_recipe_a_is_the_papers():
    assert flat(PAPER.recipes["A"]) == RECIPE_A


def test_recipe_b_differs_in_four_settings_alone():
    kept = {key: value for key, value in RECIPE_A.items() if not key.startswith("mixing.")}
    assert flat(PAPER.recipes["B"]) == {**kept, **B_DIFFERS}


# ---- the live transforms -----------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["A", "B"])
def test_training_images_are_augmented_as_in_the_reference(recipe):
    made = train_transform(PAPER.data, PAPER.recipes[recipe]).transforms
    crop, flip, augment, _, normalise, erase = made
    assert isinstance(crop, RandomResizedCropAndInterpolation)
    assert tuple(crop.size) == (224, 224) and tuple(crop.scale) == (0.08, 1.0)
    assert tuple(crop.ratio) == pytest.approx((3 / 4, 4 / 3))
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert isinstance(flip, transforms.RandomHorizontalFlip) and flip.p == 0.5
    assert isinstance(augment, RandAugment)
    assert_normalises(normalise)
    assert isinstance(erase, RandomErasing)
    assert (erase.probability, erase.per_pixel, erase.rand_color) == (0.25, True, False)
    assert (erase.min_count, erase.max_count) == (1, 1)
    assert (erase.min_area, erase.max_area) == pytest.approx((0.02, 1 / 3))


def test_rand_augment_is_the_reference_codes():
    """Two increasing operations of magnitude 9 ± 0.5, filled with ImageNet's mean."""
    augment = train_transform(PAPER.data, PAPER.recipes["A"]).transforms[2]
    mean = tuple(round(255 * value) for value in PAPER.data.mean)
    hints = {"translate_const": 100, "img_mean": mean}
    expected = rand_augment_transform("rand-m9-mstd0.5-inc1", hints)
    assert str(augment) == str(expected)
    assert augment.num_layers == 2 and augment.choice_weights is None
    assert {op.magnitude for op in augment.ops} == {9}
    assert {op.magnitude_std for op in augment.ops} == {0.5}
    assert {"PosterizeIncreasing", "ColorIncreasing"} <= {op.name for op in augment.ops}
    assert {op.kwargs["fillcolor"] for op in augment.ops} == {(124, 116, 104)}


def test_evaluation_resizes_to_256_and_crops_224():
    resize, crop, _, normalise = evaluation_transform(PAPER.data).transforms
    assert isinstance(resize, transforms.Resize)
    assert (resize.size, resize.interpolation) == (256, InterpolationMode.BICUBIC)
    assert isinstance(crop, transforms.CenterCrop) and tuple(crop.size) == (224, 224)
    assert_normalises(normalise)


@pytest.mark.parametrize(
    ("pair", "size"),
    [("deit_tiny-cait_s24", 224), ("swin_tiny-swin_small", 248), ("deit_tiny-regnety_160", 235)],
)
def test_a_teacher_is_evaluated_as_it_was_published(pair, size):
    seen_by = PAPER.pairs[pair].teacher.input
    resize, crop, _, normalise = evaluation_transform(PAPER.data, seen_by).transforms
    assert resize.size == size
    assert tuple(crop.size) == (224, 224)
    assert_normalises(normalise)


def assert_normalises(step):
    assert isinstance(step, transforms.Normalize)
    assert torch.as_tensor(step.mean).tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert torch.as_tensor(step.std).tolist() == pytest.approx([0.229, 0.224, 0.225])


# ---- pairs, layers and methods -----------------------------------------------------------------

DEEP = LayerMap(student=[0, 1, 2, 3, 8, 9, 10, 11], teacher=[0, 1, 2, 3, 20, 21, 22, 23])
STAGES = LayerMap(student=[0, 1, 2, 3], teacher=[0, 1, 2, 3])
EVERY = ["none", "soft_kd", "hard_kd_token", "fitnet", "sp", "manifold", "manifold_full"]
WITHOUT_TOKEN = [method for method in EVERY if method != "hard_kd_token"]
ONLY_LOGITS = ["none", "soft_kd", "hard_kd_token"]
# pair: (student, teacher, the paper's layer map, methods)
PAIRS = {
    "deit_tiny-cait_s24": ("deit_tiny_patch16_224", "cait_s24_224", DEEP, EVERY),
    "deit_tiny-cait_xxs24": ("deit_tiny_patch16_224", "cait_xxs24_224", DEEP, EVERY),
    "deit_small-cait_s24": ("deit_small_patch16_224", "cait_s24_224", DEEP, EVERY),
    "swin_tiny-swin_small": (
        "swin_tiny_patch4_window7_224",
        "swin_small_patch4_window7_224",
        STAGES,
        WITHOUT_TOKEN,
    ),
    "deit_tiny-regnety_160": ("deit_tiny_patch16_224", "regnety_160", None, ONLY_LOGITS),
}


def test_the_pairs_are_the_papers_and_deits():
    assert PAPER.table1.pairs == list(PAIRS)
    assert list(PAPER.pairs) == [*PAIRS, "untrained-teacher"]
    assert PAPER.methods == EVERY and PAPER.seeds == [0, 1, 2]
    assert (PAPER.table1.epochs, PAPER.table1.recipe, PAPER.table1.baseline) == (
        300,
        "A",
        "soft_kd",
    )
    assert (PAPER.data.validation, PAPER.data.image_size) == (0, 224)
    assert (PAPER.evaluation_split, PAPER.reported_dataset) == ("test", "imagenet1k")


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_has_the_papers_networks_layers_and_methods(name):
    student, teacher_name, layers, methods = PAIRS[name]
    pair = PAPER.pairs[name]
    assert pair.student == Model(name=student, arguments={})
    assert pair.teacher.model.name.partition(".")[0] == teacher_name
    assert pair.teacher.weights == "pretrained"
    assert pair.most_tokens == 196
    assert pair.layers.get("paper") == layers
    assert PAPER.methods_of(name) == methods
    assert PAPER.in_cohorts(methods) == [methods]  # one teacher pass for all of them
    distilled = pair.distilled_student and pair.distilled_student.name
    expected = student.replace("_patch16", "_distilled_patch16") if "deit" in student else None
    assert distilled == expected


@pytest.mark.parametrize("name", PAIRS)
def test_a_teachers_weights_are_known_to_timm_as_the_scale_says(name):
    made = PAPER.pairs[name].teacher
    known = timm.get_pretrained_cfg(made.model.name)
    assert timm.is_model(made.model.name) and known.hf_hub_id
    assert made.model.name.endswith(f".{known.tag}")
    assert (list(known.mean), list(known.std)) == (made.input.mean, made.input.std)
    assert (known.crop_pct, known.interpolation) == (made.input.crop, made.input.interpolation)
    assert (known.num_classes, known.input_size) == (1000, (3, 224, 224))


@pytest.mark.parametrize("name", PAIRS)
def test_every_method_of_a_pair_finds_its_layer_map(name):
    for method in PAPER.methods_of(name):
        wanted = PAPER.method_definitions[method].arguments.get("layers")
        assert wanted is None or wanted in PAPER.pairs[name].layers


def test_swins_large_maps_are_merged_to_196_tokens():
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=CLASSES)
    found = layouts(model, (3, 224, 224), STAGES.student, 196)
    expected = {0: (14, 14, 1536), 1: (14, 14, 768), 2: (14, 14, 384), 3: (7, 7, 768)}
    assert {stage: dataclasses.astuple(layout) for stage, layout in found.items()} == expected
    assert [str(layout) for layout in found.values()] == ["196 = 14×14"] * 3 + ["49 = 7×7"]


# ---- networks next to the published ones -------------------------------------------------------


@pytest.fixture(scope="session")
def weighed():
    return networks(PAPER)


def test_every_network_of_the_scale_is_the_published_one(weighed):
    check_published(weighed)
    models = [
        model
        for pair in PAPER.pairs.values()
        for model in (*(getattr(pair, key) for key in get_args(StudentKey)), pair.teacher.model)
        if model is not None
    ]
    assert set(weighed["network"]) == {model.name for model in models}
    assert len(weighed) == 11
    rows = weighed.set_index("network")
    wider = {"deit_tiny_lift_patch16_224": 5_983_528, "deit_tiny_wide_last_patch16_224": 7_313_896}
    for name, parameters in wider.items():  # timm publishes nothing of them
        assert rows.loc[name, "parameters"] == parameters
        assert rows.loc[name, "gmacs"] > rows.loc["deit_tiny_patch16_224", "gmacs"]
    published = pd.read_csv(PAPER.networks).set_index("network")
    for row in weighed[~weighed["network"].isin(wider)].itertuples():
        known = published.loc[row.network.partition(".")[0]]
        assert round(row.parameters / 1e6, 2) == known["parameters_millions"]
        assert row.gmacs == pytest.approx(known["gmacs"], rel=0.02)


@pytest.mark.parametrize("network", ["deit_tiny_patch16_224", "regnety_160.deit_in1k"])
@pytest.mark.parametrize(
    ("column", "factor", "word"),
    [
        ("parameters", 1.01, "M parameters, published are"),
        ("parameters", 0.99, "M parameters, published are"),
        ("gmacs", 1.05, "GMAC an image, published are"),
        ("gmacs", 0.95, "GMAC an image, published are"),
        ("published_gmacs", 2.0, "GMAC an image, published are"),
    ],
)
def test_another_network_than_the_published_is_refused(network, column, factor, word, weighed):
    changed = weighed.astype({"parameters": float})
    changed.loc[changed["network"] == network, column] *= factor
    with pytest.raises(UserError) as caught:
        check_published(changed)
    assert network in str(caught.value) and word in str(caught.value)


def test_a_network_that_nobody_published_is_let_pass(weighed):
    changed = weighed.assign(published_gmacs=float("nan"), parameters=1)
    check_published(changed)


def test_gpu_hours_are_those_of_the_published_rates(weighed):
    """One pass of RegNet; two DeiT-Tiny students and one with a distillation token."""
    seconds = 1 / 1046.76 + 2 / 2290.53 + 1 / 2253.36
    expected = 300 * 1_281_167 * seconds / 3600
    assert 240 < expected < 250
    assert gpu_hours(PAPER, "deit_tiny-regnety_160", weighed) == pytest.approx(expected, rel=1e-9)


def test_gpu_hours_of_an_unpublished_network_are_none(weighed):
    changed = weighed.assign(published_train_images_per_second=float("nan"))
    assert gpu_hours(PAPER, "deit_tiny-regnety_160", changed) is None


@pytest.mark.parametrize(
    ("asked", "arguments", "deepest"),
    [(0.0, {}, 0.0), (0.3, {}, 0.3), (0.0, {"drop_path_rate": 0.2}, 0.2)],
)
def test_stochastic_depth_is_the_recipes_and_not_timms(asked, arguments, deepest):
    """timm's Swin has a rate of 0.1 where none is said; recipes A and B have none."""
    small = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], **arguments}
    network = create_model(
        Model(name="swin_tiny_patch4_window7_224", arguments=small), (3, 56, 56), 10, asked
    )
    found = [m.drop_prob for m in network.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(found) == pytest.approx(deepest)


# ---- the workflow ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder that sees the workflow and has results of its own."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Snakefile", "workflow", "config", "profiles", "environment.yml"):
        os.symlink(ROOT / name, folder / name)
    (folder / "results").mkdir()
    os.symlink(REPORTED, folder / "results/reported")
    return folder


def snakemake(folder, *arguments, **environment):
    done = running.snakemake(folder, *arguments, timeout=600, **environment)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def job_stats(output):
    """The table below "Job stats" as a dictionary."""
    table = output.split("Job stats:")[1].split("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


def test_the_plan_of_the_paper_holds_every_pair_and_seed(clone, tmp_path):
    # A torch that cannot be imported stands in front of the real one.
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    planned = snakemake(clone, "-n", "--config", "scale=imagenet", PYTHONPATH=path)
    stats = job_stats(planned)
    train_jobs = {f"train_{pair.replace('-', '_')}_A_300_0": 3 for pair in PAIRS}
    assert {name: count for name, count in stats.items() if name in train_jobs} == train_jobs
    once = {"reproduce_table1": 1, "table1": 1}
    each = {"fetch_teacher": 5, "evaluate_teacher": 5}
    assert stats == {**train_jobs, **once, **each, "total": 27}
    cells = {
        f"results/imagenet/cells/{pair}/A/300-epochs/{method}/seed-{seed}/student.safetensors"
        for pair in PAIRS
        for method in PAPER.methods_of(pair)
        for seed in PAPER.seeds
    }
    assert cells == set(re.findall(r"results/imagenet/cells/\S+/student\.safetensors", planned))


# Two cohorts, the second of one method.
FEW = {
    "scale": "smoke",
    "name": "smoke",
    "methods": ["soft_kd", "fitnet", "manifold"],
    "rehearsal": {"cohort_size": 2},
}


@pytest.fixture(scope="module")
def rehearse(clone, warm_python):
    def run():
        words = ("--config", *to_words(FEW))
        return snakemake(clone, "--cores", "2", "rehearse", *words, PATH=warm_python)

    return run


@pytest.fixture(scope="module")
def rehearsed(clone, rehearse):
    rehearse()
    return clone / "results/smoke"


def test_a_rehearsal_is_killed_resumed_and_written(rehearsed):
    small = resolve(FEW)
    found = json.loads((rehearsed / "rehearsal/deit-cait/A.json").read_text(encoding="utf-8"))
    assert found["resumed_at"] == small.rehearsal.killed_after == 1
    assert found["steps"] == small.rehearsal.steps == 3
    assert found["processes"] == small.rehearsal.processes == 2
    assert list(found["methods"]) == [*small.methods, *small.rehearsal.methods]
    assert found["token_layouts"] == {"student": {}, "teacher": {}}  # of the baseline
    assert found["peak_memory_gib"] > 0
    assert all(each["images_per_second"] > 0 for each in found["methods"].values())
    table = pd.read_csv(rehearsed / "rehearsal.csv")
    assert table[["pair", "recipe", "resumed_at", "methods"]].values.tolist() == [
        ["deit-cait", "A", 1, 4],
        ["deit-cait", "B", 1, 4],
    ]
    assert table["gpu_hours_per_seed"].isna().all()  # nobody published the toy networks
    text = (rehearsed / "rehearsal.md").read_text(encoding="utf-8")
    assert text.startswith("# Rehearsal of smoke")
    for part in ("deit_tiny_patch16_224", "| deit-cait | A", "killed after step 1"):
        assert part in text
    roles = pd.read_csv(rehearsed / "rehearsal_networks.csv")["role"].tolist()
    kinds = ["distilled", "lifted", "widened"]
    assert roles == ["student", *(f"{kind} student" for kind in kinds), "teacher"]


def test_a_rehearsal_leaves_no_weights_of_its_students(rehearsed):
    left = {path.name for path in rehearsed.rglob("*") if path.suffix in (".safetensors", ".pt")}
    assert left == {"teacher-deit-cait.safetensors"}


@pytest.mark.parametrize(
    ("pair", "recipe", "words"),
    [
        ("deit-cat", "A", "pair: unknown 'deit-cat'. Did you mean 'deit-cait'"),
        (PAIR, "C", "recipe: unknown 'C'.* Known: A, B"),
        (PAIR, "A", "rehearsal/images is missing; run python -m benchmarks rehearsal images"),
    ],
)
def test_what_cannot_be_rehearsed_is_said(pair, recipe, words, experiment):
    with pytest.raises(UserError, match=words):
        rehearsal.run(experiment(), pair, recipe)


def test_a_second_rehearsal_does_nothing(rehearsed, rehearse):
    assert "Nothing to be done" in rehearse()


# ---- training on all images --------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A smoke teacher of random weights."""
    return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def save_teacher(path, channels=1):
    torch.manual_seed(0)
    model = resolve({"scale": "smoke"}).pairs[PAIR].teacher.model
    save_weights(create_model(model, (channels, 8, 8), CLASSES), path)
    return path


@pytest.fixture(scope="module")
def without_validation(weights, tmp_path_factory):
    """An experiment of two methods and seeds that has been trained on every training image."""
    made = resolve(
        {
            "scale": "smoke",
            "results": str(tmp_path_factory.mktemp("results")),
            "claims": str(REPORTED / "claims.csv"),
            "data": {"validation": 0},
            "methods": ["none", "soft_kd"],
            "table1": {"epochs": 1},
            "pairs": {PAIR: {"teacher": {"weights": str(weights)}}},
        }
    )
    for seed in made.seeds:
        train.train(*student_setting(made, PAIR, "A", 1, made.methods, seed))
    return made


def cell(experiment, method, seed, name):
    return experiment.cell_directory(PAIR, "A", 1, method, seed) / name


@pytest.mark.parametrize("method", ["none", "soft_kd"])
def test_without_a_validation_split_there_is_no_best_epoch(method, without_validation):
    run = json.loads(cell(without_validation, method, 0, "run.json").read_text(encoding="utf-8"))
    result = run["result"]
    assert (result["best_epoch"], result["best_top1"]) == (None, None)
    assert (result["split"], result["images"]) == ("test", 360)
    assert 0 <= result["top1"] <= 100 and 0 <= result["ema_top1"] <= 100
    assert run["splits"] == {"train": 1437, "validation": 0, "test": 360}
    assert run["images_seen"] == 44 * 32


@pytest.mark.parametrize(
    ("method", "terms"), [("none", {"cross_entropy"}), ("soft_kd", {"cross_entropy", "kl"})]
)
def test_without_a_validation_split_the_metrics_keep_their_columns(
    method, terms, without_validation
):
    metrics = pd.read_csv(cell(without_validation, method, 1, "metrics.csv"))
    assert set(metrics.columns) == {*EPOCH_COLUMNS, *terms, *(SHARE + term for term in terms)}
    assert metrics["validation_top1"].isna().all() and len(metrics) == 1
    assert metrics.drop(columns="validation_top1").notna().all(axis=None)


def test_without_a_validation_split_table1_is_made(without_validation):
    made = without_validation
    measured = teacher.measure(made, PAIR)
    write_text(teacher.evaluation_path(made, PAIR), json.dumps(measured))
    made.studies["table1"].write()
    rows = pd.read_csv(made.directory / "table1.csv").set_index("method")
    assert list(rows.index) == ["none", "soft_kd", "teacher"]
    assert rows["best_top1_mean"].isna().all()
    for method in made.methods:
        runs = [
            json.loads(cell(made, method, seed, "run.json").read_text(encoding="utf-8"))
            for seed in made.seeds
        ]
        mean = sum(run["result"]["top1"] for run in runs) / 2
        assert rows.loc[method, "top1_mean"] == pytest.approx(mean)
    (header, *lines) = [
        [word.strip() for word in line.split("|")]
        for line in (made.directory / "table1.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ][:5]
    assert {line[header.index("Best epoch")] for line in lines[1:]} == {"—"}


# ---- the machine's switches --------------------------------------------------------------------

COLOUR = {"channels": 3, "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.3, 0.4]}
UNCLIPPED = {"optimizer": {"clip_norm": None}}
CHANNELS_LAST = {"memory_format": torch.channels_last}


@pytest.fixture
def on_machine(tmp_path_factory):
    """The setting and the cells of some methods on a machine; three channels, so that their place
    in memory matters."""

    def make(methods, recipe=None, validation=200, **machine):
        folder = tmp_path_factory.mktemp("results")
        path = folder / "teacher.safetensors"
        made = resolve(
            {
                "scale": "smoke",
                "results": str(folder),
                "data": {**COLOUR, "validation": validation},
                "pairs": {PAIR: {"teacher": {"weights": str(save_teacher(path, channels=3))}}},
                "recipes": {"A": recipe or {}},
                "machine": machine,
            }
        )
        return student_setting(made, PAIR, "A", 1, methods, 0)

    return make


@pytest.fixture
def trained(on_machine):
    """A cohort after a few steps of fixed batches, and the fingerprints of its cells."""

    def make(steps, methods=("manifold",), recipe=None, **machine):
        setting, cells = on_machine(list(methods), recipe, **machine)
        cohort = build_cohort(setting, cells, CLASSES, steps=10)
        for step in range(steps):
            images, targets = batch(step)
            if machine.get("channels_last"):
                images = images.contiguous(**CHANNELS_LAST)
            cohort.step(images, targets, step + 5)
        return cohort, [cell.fingerprint for cell in cells]

    return make


def batch(number):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(32, 3, 8, 8, generator=generator)
    return images, torch.randn(32, CLASSES, generator=generator).softmax(dim=1)


def difference(own, other):
    """The norm of the difference of two cohorts' trained weights."""
    return sum(
        (first - second).pow(2).sum()
        for one, two in zip(own.members, other.members, strict=True)
        for first, second in zip(one._trained_parameters(), two._trained_parameters(), strict=True)
    ).sqrt()


def losses(cohort):
    return [member.totals["loss"] for member in cohort.members]


@pytest.fixture
def compiled(trained):
    yield trained
    torch._dynamo.reset()


def test_a_compiled_cohort_has_the_same_loss(compiled):
    plain, fingerprints = compiled(1)
    other, same = compiled(1, compile="aot_eager")
    start, _ = compiled(0)
    assert fingerprints == same
    assert other.members[0].distiller.run is other.teacher.run is not plain.teacher.run
    assert losses(other) == pytest.approx(losses(plain), rel=1e-5)
    assert difference(other, plain) < 1e-2 * difference(plain, start)


@pytest.mark.parametrize("machine", [{"fused_optimizer": True}, {"channels_last": True}], ids=str)
@pytest.mark.parametrize(
    ("recipe", "tolerance"),
    [
        ({}, 1e-5),
        ({"precision": "float16"}, 2e-3),
        ({"precision": "float16", **UNCLIPPED}, 2e-3),
    ],
    ids=["float32", "float16", "float16, unclipped"],
)
def test_a_switch_of_the_machine_trains_nearly_the_same_weights(
    recipe, tolerance, machine, trained
):
    methods = ["fitnet", "manifold"]
    plain, fingerprints = trained(4, methods, recipe)
    other, same = trained(4, methods, recipe, **machine)
    start, _ = trained(0, methods, recipe)
    assert fingerprints == same  # a cell is the same one on any machine
    assert losses(other) == pytest.approx(losses(plain), rel=tolerance)
    assert difference(other, plain) < 0.05 * difference(plain, start)
    assert difference(plain, start) > 0.1


def test_the_switches_reach_what_they_name(trained):
    plain, fused, last = (
        trained(0, **machine)[0]
        for machine in ({}, {"fused_optimizer": True}, {"channels_last": True})
    )
    assert not plain.members[0].optimizer.defaults.get("fused")
    assert fused.members[0].optimizer.defaults["fused"] is True
    for cohort, expected in ((plain, False), (last, True)):
        distiller = cohort.members[0].distiller
        ema = distiller.get_trainable_module(ema=True).module
        for network in (cohort.teacher.model, distiller.trainable_module, ema):
            assert network.patch_embed.proj.weight.is_contiguous(**CHANNELS_LAST) == expected


def test_a_cell_is_trained_to_its_end_with_all_switches(on_machine, monkeypatch):
    seen, step = [], Cohort.step

    def look(self, images, *arguments):
        seen.append(images.is_contiguous(**CHANNELS_LAST))
        step(self, images, *arguments)

    monkeypatch.setattr(Cohort, "step", look)
    machine = {"fused_optimizer": True, "channels_last": True}
    setting, cells = on_machine(["manifold"], UNCLIPPED, validation=1100, **machine)
    train.train(setting, cells)
    assert seen == [True] * 2
    assert cells[0].is_complete()
    state = load_file(cells[0].directory / "student.safetensors")
    assert state["patch_embed.proj.weight"].shape == (24, 3, 2, 2)
    assert all(value.isfinite().all() for value in state.values())
