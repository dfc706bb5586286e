"""Every number of the configuration has bounds, and what no run can use is refused by its key."""

import math
import typing
from functools import cache
from importlib import import_module
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from manifold.errors import UserError
from manifold.settings import ROOT, Section, read_yaml, resolve
from manifold.settings.messages import bounds_of
from manifold.training.arguments import checked_arguments, number_annotations

SCALES = sorted(path.stem for path in (ROOT / "config/scales").glob("*.yaml"))
METHODS = read_yaml(ROOT / "config/methods.yaml")
LOWER, UPPER = {"ge", "gt"}, {"le", "lt"}
NAN, INFINITE = math.nan, math.inf


# ---- no number without bounds ----------------------------------------------------------------


def parts(kind):
    """An annotation, and all that stands in it: the types of a union, a list, a mapping."""
    yield kind
    for inner in typing.get_args(kind):
        if isinstance(inner, type) or typing.get_origin(inner) is not None:
            yield from parts(inner)


@cache
def models():
    """Every model that a scale's experiment is made of."""
    pending, found = [type(resolve({"scale": scale})) for scale in SCALES], set()
    while pending:
        model = pending.pop()
        if model in found:
            continue
        found.add(model)
        for field in model.model_fields.values():
            pending += [
                part
                for part in parts(field.rebuild_annotation())
                if isinstance(part, type) and issubclass(part, BaseModel)
            ]
    return found


def unbounded(kind):
    """The numbers of an annotation that may be as low, or as high, as one likes."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (int, float):
        return [kind]
    if origin is typing.Annotated:
        bounds = set(bounds_of(kind))
        is_bounded = bool(LOWER & bounds and UPPER & bounds)
        return [] if is_bounded else unbounded(arguments[0])
    if origin is typing.Literal:
        return []
    return [number for inner in arguments for number in unbounded(inner)]


def test_the_walk_finds_a_number_without_bounds():
    class Loose(Section):
        bare: int
        inner: dict[str, list[float] | None]
        open_above: Annotated[int, Field(ge=1)]

    found = [unbounded(field.rebuild_annotation()) for field in Loose.model_fields.values()]
    assert found == [[int], [float], [int]]


def test_the_walk_reaches_every_section():
    names = {model.__name__ for model in models()}
    assert {"Recipe", "Mixing", "Scenes", "CocoFolder", "TransferData", "LinearProbe"} <= names
    assert {"RehearsalSettings", "ChoiceSettings", "TeacherInput", "LayerMap"} <= names


@pytest.mark.parametrize("model", sorted(models(), key=lambda model: model.__name__))
def test_every_number_has_bounds_and_none_may_be_infinite(model):
    loose = {
        key: unbounded(field.rebuild_annotation()) for key, field in model.model_fields.items()
    }
    assert {key: numbers for key, numbers in loose.items() if numbers} == {}
    assert model.model_config["allow_inf_nan"] is False


def distiller_of(method):
    module, _, name = METHODS[method]["distiller"].partition(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_a_method_has_bounds(method):
    annotations = number_annotations(distiller_of(method))
    assert {name: kind for name, kind in annotations.items() if unbounded(kind)} == {}
    given = METHODS[method]["arguments"]
    numbers = {name for name, value in given.items() if type(value) in (int, float)}
    assert numbers <= annotations.keys()
    assert checked_arguments(distiller_of(method), given) == given


# ---- what no run can use ---------------------------------------------------------------------


def recipe(**changes):
    return {"recipes": {"A": changes}}


def optimizer(**changes):
    return recipe(optimizer=changes)


def schedule(**changes):
    return recipe(schedule=changes)


def augmentation(**changes):
    return recipe(augmentation=changes)


def mixing(**changes):
    return recipe(mixing=changes)


def data(**changes):
    return {"data": changes}


def pair(**changes):
    return {"pairs": {"deit-cait": changes}}


def teacher_input(**changes):
    whole = {"mean": [0.5], "std": [0.5], "crop": 1.0, "interpolation": "bicubic"}
    return pair(teacher={"input": whole | changes})


def method(**arguments):
    return {"method_definitions": {"manifold": {"arguments": arguments}}}


REFUSED = [
    (recipe(ema_decay=1.5), "recipes.A.ema_decay"),
    (recipe(ema_decay=-1), "recipes.A.ema_decay"),
    (recipe(ema_decay=1), "recipes.A.ema_decay"),
    (recipe(label_smoothing=1.5), "recipes.A.label_smoothing"),
    (recipe(drop_path=-0.5), "recipes.A.drop_path"),
    (recipe(drop_path=2), "recipes.A.drop_path"),
    (recipe(repeats=129), "recipes.A.repeats 129"),
    (recipe(distillation={"temperature": INFINITE}), "recipes.A.distillation.temperature"),
    (optimizer(clip_norm=-1), "recipes.A.optimizer.clip_norm"),
    (optimizer(clip_norm=INFINITE), "recipes.A.optimizer.clip_norm"),
    (optimizer(weight_decay=-1), "recipes.A.optimizer.weight_decay"),
    (optimizer(learning_rate=INFINITE), "recipes.A.optimizer.learning_rate"),
    (optimizer(learning_rate=1e5), "recipes.A.optimizer.learning_rate must be at most 1,000"),
    (optimizer(learning_rate=1, weight_decay=2), "recipes.A.optimizer.learning_rate 1 times"),
    (optimizer(weight_decay=1e30), "recipes.A.optimizer.weight_decay"),
    (optimizer(clip_norm=1e-300), "recipes.A.optimizer.clip_norm must be at least 1e-06"),
    (optimizer(learning_rate="nan"), "recipes.A.optimizer.learning_rate"),
    (optimizer(learning_rate=0), "recipes.A.optimizer.learning_rate"),
    (optimizer(epsilon=0), "recipes.A.optimizer.epsilon"),
    (optimizer(epsilon=-1e-8), "recipes.A.optimizer.epsilon"),
    (optimizer(betas=[0.9, 1.0]), "recipes.A.optimizer.betas[1]"),
    (optimizer(betas=[-0.1, 0.9]), "recipes.A.optimizer.betas[0]"),
    (optimizer(betas=[0.9]), "recipes.A.optimizer.betas"),
    (optimizer(betas=[0.9] * 4), "recipes.A.optimizer.betas"),
    (optimizer(betas=(0.9, NAN)), "recipes.A.optimizer.betas[1]"),
    (schedule(warmup_epochs=-1), "recipes.A.schedule.warmup_epochs"),
    (schedule(warmup_epochs=100), "recipes.A.schedule.warmup_epochs 100"),
    (schedule(warmup_epochs=INFINITE), "recipes.A.schedule.warmup_epochs"),
    (schedule(minimum_learning_rate=NAN), "recipes.A.schedule.minimum_learning_rate"),
    (schedule(minimum_learning_rate=0.1), "recipes.A.schedule.minimum_learning_rate 0.1"),
    (schedule(warmup_learning_rate=0.1), "recipes.A.schedule.warmup_learning_rate 0.1"),
    (augmentation(scale=[1, 0.5]), "recipes.A.augmentation.scale"),
    (augmentation(scale=[0, 1]), "recipes.A.augmentation.scale[0]"),
    (augmentation(scale=[0]), "recipes.A.augmentation.scale"),
    (augmentation(scale=[0.5]), "recipes.A.augmentation.scale"),
    (augmentation(scale=[0.5, 1.5]), "recipes.A.augmentation.scale[1]"),
    (augmentation(ratio=[1.5, 0.5]), "recipes.A.augmentation.ratio"),
    (augmentation(ratio=[0, 1]), "recipes.A.augmentation.ratio[0]"),
    (augmentation(random_erasing=2), "recipes.A.augmentation.random_erasing"),
    (augmentation(horizontal_flip=-1), "recipes.A.augmentation.horizontal_flip"),
    (augmentation(color_jitter=-1), "recipes.A.augmentation.color_jitter"),
    (augmentation(color_jitter=1e30), "recipes.A.augmentation.color_jitter"),
    (augmentation(ratio=[1e9, 1e9]), "recipes.A.augmentation.ratio[0]"),
    (mixing(mixup=1e9), "recipes.A.mixing.mixup"),
    (augmentation(auto_augment="rand-mfoo"), "timm passes 'mfoo' by"),
    (augmentation(auto_augment="rand-m9--inc1"), "timm passes '' by"),
    (augmentation(auto_augment="rand-n100000"), "n (transforms of an image) must be from 1"),
    (augmentation(auto_augment="augmix-w0"), "w (chains of a mix) must be from 1 to 100, got 0"),
    (augmentation(auto_augment="augmix-d100000"), "d (transforms of a chain) must be from 1 to"),
    (augmentation(auto_augment="rand-m99999"), "m (magnitude) must be from 0 to 30, got 99999"),
    (mixing(mixup=-1), "recipes.A.mixing.mixup"),
    (mixing(cutmix=NAN), "recipes.A.mixing.cutmix"),
    (mixing(mixup=0, cutmix=0), "recipes.A.mixing.mixup and cutmix"),
    (mixing(probability=2), "recipes.A.mixing.probability"),
    (data(std=[-1]), "data.std[0]"),
    (data(std=[0]), "data.std[0]"),
    (data(mean=[NAN]), "data.mean[0]"),
    (data(mean=[123.7]), "data.mean[0]"),
    (data(crop=0), "data.crop"),
    (data(crop=2), "data.crop"),
    (data(validation=1.5), "data.validation"),
    (data(validation=-0.1), "data.validation"),
    (data(validation=NAN), "data.validation"),
    (data(image_size=0), "data.image_size"),
    (teacher_input(mean=[NAN]), "pairs.deit-cait.teacher.input.mean[0]"),
    (teacher_input(crop=0), "pairs.deit-cait.teacher.input.crop"),
    (pair(student={"arguments": {"mlp_ratio": NAN}}), "pairs.deit-cait.student.arguments.mlp_rat"),
    (pair(student={"arguments": {"depths": [1, INFINITE]}}), "student.arguments.depths[1]"),
    (method(intra=NAN), "method_definitions.manifold.arguments.intra"),
    (method(intra=-INFINITE), "method_definitions.manifold.arguments.intra"),
    (data(least_images_per_epoch=1e12), "data.least_images_per_epoch"),
    ({"table1": {"epochs": 100_000_000_000_000}}, "table1.epochs must be at most 1,000,000, got"),
    ({"machine": {"workers": 100_000}}, "machine.workers must be at most 4,096, got 100000"),
    ({"machine": {"threads": 100_000}}, "machine.threads must be at most 4,096, got 100000"),
    ({"transfer": {"draws": 1_000_000_000}}, "transfer.draws must be at most 1,000"),
    ({"detection": {"least_steps": 10**17}}, "detection.least_steps must be at most 10,000,000"),
    ({"statistics": {"confidence": 0.9999999999999999}}, "statistics.confidence"),
    ({"machine": {"workers": -1}}, "machine.workers"),
    ({"machine": {"device": "cudaa"}}, "machine.device"),
    ({"machine": {"checkpoint_seconds": NAN}}, "machine.checkpoint_seconds"),
    ({"statistics": {"confidence": NAN}}, "statistics.confidence"),
    ({"seeds": [-1, 2]}, "seeds[0]"),
    ({"detection": {"options": {"train_cfg.max_epochs": NAN}}}, "detection.options"),
    ({"detection": {"data": {"scenes": {"sides": [12, 8]}}}}, "detection.data.scenes.sides"),
    ({"detection": {"data": {"scenes": {"size": [100_000, 32]}}}}, "detection.data.scenes.size[0]"),
    (data(image_size=100_000), "data.image_size must be at most 10,000"),
    ({"claims": "/nofile.csv"}, "claims: no such file /nofile.csv"),
    ({"networks": "nofile.csv"}, "networks: no such file nofile.csv"),
    ({"detection": {"data": {"scenes": {"size": [0, 32]}}}}, "detection.data.scenes.size[0]"),
    ({"detection_rehearsal": {"sides": [0.8, 0.1]}}, "detection_rehearsal.sides"),
    ({"detection_rehearsal": {"sides": [0.1, 8.0]}}, "detection_rehearsal.sides[1]"),
    ({"rehearsal": {"jpeg_size": [500]}}, "rehearsal.jpeg_size"),
    ({"transfer": {"linear_probe": {"tolerance": NAN}}}, "transfer.linear_probe.tolerance"),
    ({"transfer": {"nearest_neighbours": {"temperature": 0}}}, "nearest_neighbours.temperature"),
    ({"transfer": {"defaults": {"crop": NAN}}}, "transfer.defaults.crop"),
]


@pytest.mark.parametrize(("overrides", "key"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_number_that_no_run_can_use_is_refused_by_its_key(overrides, key):
    with pytest.raises(UserError) as error:
        resolve({"scale": "smoke", **overrides})
    assert key in str(error.value)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("manifold", "intra", -1.0),
        ("manifold", "samples", 0),
        ("manifold_full", "weight", -1),
        ("sp", "weight", NAN),
        ("sp", "weight", True),
        ("sp", "weight", "big"),
        ("dkd", "tau", 0),
        ("dist", "tau", INFINITE),
        ("crd", "dimensions", 0),
        ("crd", "tau", -0.07),
        ("label_smoothing", "smoothing", 1.0),
        ("masked_kd", "keep", 1.1),
        ("vitkd", "mask_ratio", 0.0),
        ("projector_ensemble", "projectors", 2.5),
        ("spectralkd", "ends", 0),
        ("ofa", "exponent", 0),
        ("rkd", "angle", -1),
        ("vkd", "kl", -1),
    ],
)
def test_an_argument_that_no_run_can_use_is_refused_by_its_name(method, name, value):
    given = METHODS[method]["arguments"] | {name: value}
    with pytest.raises(UserError, match=f"argument '{name}' must .*got {value!r}"):
        checked_arguments(distiller_of(method), given)


def test_all_that_is_wrong_is_said_at_once():
    wrong = [optimizer(weight_decay=-1), data(crop=0), {"seeds": [-1, 2]}]
    with pytest.raises(UserError) as error:
        resolve({"scale": "smoke", **{key: value for each in wrong for key, value in each.items()}})
    words = ("3 things", "recipes.A.optimizer.weight_decay", "data.crop", "seeds[0]")
    assert [word for word in words if word not in str(error.value)] == []
    with pytest.raises(UserError) as error:
        resolve({"scale": "smoke", "table1": {"recipe": "Z"}, "detection": {"baseline": "sp"}})
    assert "table1.recipe: unknown 'Z'" in str(error.value)
    assert "detection.baseline: unknown 'sp'" in str(error.value)


@pytest.mark.parametrize(
    "policy",
    ["rand-m9-mstd0.5-inc1", "rand-m9-n3-p0.5-mmax8-tweights", "augmix-m5-w4-d2", "original", "3a"],
)
def test_a_policy_that_timm_reads_whole_is_one(policy):
    made = resolve({"scale": "smoke", **augmentation(auto_augment=policy)})
    assert made.recipes["A"].augmentation.auto_augment == policy
