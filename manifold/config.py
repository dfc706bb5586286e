"""The typed configuration: one dataclass a section, and an unknown key is an error.

``resolve`` merges a scale's file with what the user overrides and returns an ``Experiment``.
Nothing here imports torch, so that ``snakemake -n`` answers at once.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from manifold.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TRAIN_TEACHER = "train"
PRETRAINED = "pretrained"
UNTRAINED = "untrained"
TRANSFER_MEAN = "mean"  # stands for all data sets of the transfer study
CELL_FILES = ("student.safetensors", "metrics.csv", "run.json")
RANDOM = "random"  # in the place of a method: a backbone with random weights
DETECTOR_FILES = ("detector.safetensors", "predictions.bbox.json", "metrics.csv", "run.json")

DataSet = Literal[
    *("fashion_mnist", "digits", "cifar10", "cifar100", "folder"),
    *("mnist_5k", "textures", "faces"),
    *("flowers102", "oxford_pets", "stanford_cars", "inaturalist"),
]


@dataclass(frozen=True)
class Data:
    """A data set and the form in which the networks see it."""

    dataset: DataSet
    folder: str | None  # where the files are; null for data that a package carries
    image_size: int
    channels: Literal[1, 3]
    mean: list[float]
    std: list[float]
    validation: int  # training images held out for every choice that anyone makes; 0: none
    crop: float  # side of the centre crop at evaluation, as a share of the resized image
    interpolation: Literal["bilinear", "bicubic", "nearest"]
    verify: bool  # decode every image of a folder before any compute


@dataclass(frozen=True)
class Model:
    """A timm model; image size, channels and classes come from the data."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class TeacherInput:
    """The normalisation and the evaluation that outside weights were made with."""

    mean: list[float]
    std: list[float]
    crop: float
    interpolation: Literal["bilinear", "bicubic", "nearest"]


@dataclass(frozen=True)
class Teacher:
    model: Model
    weights: str  # "train", "pretrained" (timm's, by the model's name), "untrained", or a path
    recipe: str | None  # of a teacher that is trained here, as are epochs and seed
    epochs: int | None
    seed: int | None  # of an untrained teacher's initialisation too
    input: TeacherInput | None  # null: as the students' data


@dataclass(frozen=True)
class LayerMap:
    """Student blocks and the teacher blocks that they are compared with, pair by pair."""

    student: list[int]
    teacher: list[int]


@dataclass(frozen=True)
class Pair:
    student: Model
    distilled_student: Model | None  # the same network with DeiT's distillation token
    teacher: Teacher
    layers: dict[str, LayerMap]
    most_tokens: int  # maps of more tokens are merged to this many (paper: 196)
    methods: list[str] | None  # the methods that this pair is for; null: all of the scale's


@dataclass(frozen=True)
class Optimizer:
    name: str
    learning_rate: float
    weight_decay: float
    epsilon: float | None  # null, as betas: of an optimizer that has none
    betas: list[float] | None
    clip_norm: float | None


@dataclass(frozen=True)
class Schedule:
    name: Literal["cosine", "constant"]
    warmup_epochs: float
    warmup_learning_rate: float
    minimum_learning_rate: float
    per: Literal["step", "epoch"]
    lags_one_epoch: bool  # an epoch runs at the rate of the one before, as in the reference code


@dataclass(frozen=True)
class Augmentation:
    scale: list[float]
    ratio: list[float]
    horizontal_flip: float
    color_jitter: float
    auto_augment: str | None
    random_erasing: float


@dataclass(frozen=True)
class Mixing:
    mixup: float
    cutmix: float
    probability: float
    switch_probability: float
    mode: Literal["batch", "pair", "elem"]


@dataclass(frozen=True)
class SoftLabels:
    """The part of a recipe that the distillation loss reads: (1−α)·CE + α·T²·KL."""

    alpha: float
    temperature: float


@dataclass(frozen=True)
class Recipe:
    """A recipe: all that shapes the weights of every method alike, on any number of processes.

    A batch is drawn in ``shards`` of equal size (the reference code: one a GPU), each with a mixing
    of its own. How many processes share them out, and in how many passes, changes no number.
    """

    batch_size: int  # images of one optimizer step, over all processes
    shards: int
    relational_batch: Literal["shard", "batch"]  # the images that relations are taken between
    repeats: int  # repeated augmentation: copies of each image that stand in a row
    precision: Literal["float32", "bfloat16", "float16"]  # of autocast
    optimizer: Optimizer
    schedule: Schedule
    augmentation: Augmentation
    mixing: Mixing | None
    label_smoothing: float
    drop_path: float
    ema_decay: float
    distillation: SoftLabels


@dataclass(frozen=True)
class Method:
    title: str
    distiller: str  # module:Class
    arguments: dict[str, Any]
    student: Literal["student", "distilled_student"]
    source: str


@dataclass(frozen=True)
class Table1:
    pairs: list[str]
    recipe: str
    epochs: int
    baseline: str  # gains are over this method
    claims: dict[str, dict[str, str]]  # pair: method: id of the row of claims.csv next to it

    def claim_ids(self) -> list[str]:
        return [claim for methods in self.claims.values() for claim in methods.values()]


@dataclass(frozen=True)
class Choice:
    """The grid of a scale's numbers that are chosen on the validation split."""

    pairs: list[str]
    recipes: list[str]
    epochs: list[int]


@dataclass(frozen=True)
class RecipeStudy:
    """The same methods under several recipes and budgets, each budget with its own schedule."""

    pair: str
    recipes: list[str]
    epochs: list[int]
    methods: list[str]
    baseline: str  # gains are over this method, under the same recipe and budget
    public_curves: str  # top-1 per epoch of public ImageNet runs, drawn next to it


@dataclass(frozen=True)
class Ablation:
    """One method with one thing changed at a time.

    A variant is the name of a method, a recipe or a pair, put in the place of the reference's.
    """

    pair: str
    recipe: str
    epochs: int
    reference: str
    baseline: str  # gains are over this method, under the same pair and recipe
    groups: dict[str, list[str]]  # title: variants


@dataclass(frozen=True)
class TransferData:
    """A data set that students are carried over to.

    Image size, channels and normalisation stay those that the students were trained with.
    """

    dataset: DataSet
    folder: str | None
    validation: int  # training images held out to choose C and k
    crop: float
    interpolation: Literal["bilinear", "bicubic", "nearest"]
    verify: bool
    protocols: list[Literal["linear-probe", "k-nn", "fine-tuning"]]
    shots: list[int]  # training images of each class in the few-shot rows of the first two
    recipe: str  # of fine-tuning, as are the epochs
    epochs: int


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression by L-BFGS."""

    regularisation: list[float]  # the grid of C: the inverse weight of the squared norm
    iterations: int  # at most
    tolerance: float  # of the gradient, where it ends


@dataclass(frozen=True)
class NearestNeighbours:
    """Each of the k neighbours votes with exp(cosine similarity / temperature)."""

    neighbours: list[int]  # the grid of k
    temperature: float


@dataclass(frozen=True)
class Transfer:
    """Frozen features and fine-tuning of students on other data sets."""

    pair: str
    recipe: str
    epochs: int
    methods: list[str] | None  # null: Table 1's, and the baseline
    baseline: str  # gains are over this method
    draws: int  # of the few-shot images, a seed
    linear_probe: LinearProbe
    nearest_neighbours: NearestNeighbours
    defaults: dict[str, Any]  # of the keys that an entry of `data` does not give
    data: dict[str, TransferData | None]  # null takes a scale's entry away


@dataclass(frozen=True)
class Photographs:
    """Files that scikit-image and scikit-learn carry; none serves both splits."""

    train: list[str]
    test: list[str]


@dataclass(frozen=True)
class Scenes:
    """Scenes that are composed: items of the students' data set on photographs."""

    seed: int
    train: int  # scenes, as are test
    test: int
    size: list[int]  # width, height, in pixels
    items: list[int]  # fewest, most in a scene
    sides: list[int]  # smallest, largest side of an item, in pixels
    least_visible: float  # the share of every item that others leave uncovered
    foreground: float | None  # an item is what is brighter (of 1); null: its whole rectangle
    photographs: Photographs
    brightness: float  # of the photographs: their grey values are multiplied by it
    tries: int  # draws of an item before a scene is given up as too crowded


@dataclass(frozen=True)
class CocoFolder:
    """Images with annotations in COCO's format."""

    train_images: str
    train_annotations: str
    test_images: str
    test_annotations: str
    ignored: list[int]  # ids of annotations that are known to be broken, and left out


@dataclass(frozen=True)
class DetectionData:
    scenes: Scenes | None  # either these
    folder: CocoFolder | None  # or those
    masks: bool  # false: boxes alone, and Mask R-CNN is trained without its mask branch
    channels: Literal[1, 3]  # of the images; a student of another number is adapted


@dataclass(frozen=True)
class DetectionRehearsal:
    """What the detectors are rehearsed on, and what is counted; networks and sizes stay."""

    training_images: int  # an epoch of the run that is projected
    train: int  # images that are made, as are test
    test: int
    jpeg_size: list[int]  # width, height
    objects: int  # an image, beside a crowd
    sides: list[float]  # smallest, largest object, as shares of the image's height
    counted_size: list[int]  # width, height of the image whose FLOPs are counted
    threads: int  # of one detector's process
    options: dict[str, Any]  # laid over the detectors' own
    published: str  # parameters and FLOPs that others publish


@dataclass(frozen=True)
class Detection:
    """Detectors on the students as backbones."""

    pair: str
    recipe: str
    epochs: int
    methods: list[str]
    baseline: str  # gains are over this method's backbone
    data: DetectionData
    detectors: dict[str, str]  # name: mmdet's configuration file
    options: dict[str, Any]  # laid over those, as by mmengine's --cfg-options
    pictures: int  # test images that are drawn
    backbones_per_job: int  # trained one after another, since starting takes seconds
    rehearsal: DetectionRehearsal


@dataclass(frozen=True)
class CohortSettings:
    size: int | None  # methods trained in one job; null: all of them


@dataclass(frozen=True)
class Machine:
    """Where and how it runs; none of it changes a result beyond rounding."""

    device: str
    nodes: int
    processes: int  # a node, each with a GPU of its own where the device is cuda
    jobs_per_gpu: int
    shards_per_pass: int | None  # null: all of a process; fewer: gradient accumulation
    compile: str | None  # a backend of torch.compile
    channels_last: bool
    fused_optimizer: bool
    threads: int
    workers: int  # a process
    evaluation_batch_size: int
    checkpoint_seconds: float


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal makes smaller; networks, image size and methods stay."""

    training_images: int  # an epoch of the run that is projected
    classes: int
    jpeg_size: list[int]  # width, height
    batch_size: int
    shards: int
    steps: int
    killed_after: int  # the step after whose checkpoint a process is killed
    evaluation_images: int
    processes: int
    workers: int
    cohort_size: int  # methods trained together: what fits into a small machine's memory


@dataclass(frozen=True)
class Statistics:
    confidence: float


@dataclass(frozen=True)
class Experiment:
    scale: str
    description: str
    name: str
    results: str
    claims: str
    data: Data
    pairs: dict[str, Pair]
    recipes: dict[str, Recipe]
    method_definitions: dict[str, Method]
    methods: list[str]
    seeds: list[int]
    table1: Table1
    choice: Choice | None
    recipe_study: RecipeStudy | None
    ablation: Ablation | None
    detection: Detection | None
    transfer: Transfer | None
    bench: list[str]  # further methods of the full bench, a table in the form of Table 1
    evaluation_split: Literal["test", "validation"]  # of the accuracies in run.json
    reported_dataset: str | None  # the data set of claims.csv that this scale runs on, if any
    statistics: Statistics
    cohort: CohortSettings
    machine: Machine
    rehearsal: Rehearsal
    networks: str  # parameters, FLOPs and throughput that timm publishes

    @property
    def directory(self) -> Path:
        return Path(self.results) / self.name

    def teacher_directory(self, pair: str) -> Path:
        return self.directory / "teachers" / pair

    def teacher_weights(self, pair: str) -> Path:
        weights = self.pairs[pair].teacher.weights
        if weights == TRAIN_TEACHER:
            return self.teacher_directory(pair) / "student.safetensors"
        if weights in (PRETRAINED, UNTRAINED):
            return self.teacher_directory(pair) / f"{weights}.safetensors"
        return Path(weights)

    def methods_of(self, pair: str, methods: list[str] | None = None) -> list[str]:
        """The methods, by default Table 1's, that a pair is for."""
        own = self.pairs[pair].methods
        methods = self.methods if methods is None else methods
        return [method for method in methods if own is None or method in own]

    def bench_methods(self) -> list[str]:
        """The methods of the full bench: Table 1's, and those that the scale adds."""
        return [*self.methods, *(method for method in self.bench if method not in self.methods)]

    def further_methods(self, pair: str) -> list[str]:
        """The methods that the tables beside Table 1 train with a pair."""
        trained = [
            method
            for (of, _, _), cohorts in self.trainings().items()
            for cohort in cohorts
            for method in cohort
            if of == pair and method not in self.methods_of(pair)
        ]
        return list(dict.fromkeys(trained))

    def cell_directory(self, pair: str, recipe: str, epochs: int, method: str, seed: int) -> Path:
        return (
            self.directory / "cells" / pair / recipe / f"{epochs}-epochs" / method / f"seed-{seed}"
        )

    def detector_directory(self, detector: str, method: str, seed: int) -> Path:
        of = self.detection
        students = self.directory / "detection" / of.pair / of.recipe / f"{of.epochs}-epochs"
        return students / detector / method / f"seed-{seed}"

    def cohorts(self, pair: str) -> list[list[str]]:
        """The methods of a pair, split into the lists that are trained together."""
        return self.in_cohorts(self.methods_of(pair))

    def in_cohorts(self, methods: list[str]) -> list[list[str]]:
        """Lists of methods that are trained together."""
        size = self.cohort.size or max(1, len(methods))
        return [methods[i : i + size] for i in range(0, len(methods), size)]

    def rehearsed_recipes(self) -> list[str]:
        """The recipes of Table 1 and of the recipe study; what an ablation varies is not."""
        study = self.recipe_study.recipes if self.recipe_study else []
        return list(dict.fromkeys([self.table1.recipe, *study]))

    def trainings(self) -> dict[tuple[str, str, int], list[list[str]]]:
        """The cohorts that the tables need under each pair, recipe and budget.

        Table 1 comes first, and its cohorts hold nothing else; what a later table asks for beyond
        the earlier ones is trained in cohorts of its own.
        """
        tables = [self.table1_cells()]
        if self.choice is not None:
            tables.append(self.choice_cells())
        if self.recipe_study is not None:
            tables.append(self.recipe_study_cells())
        if self.ablation is not None:
            tables.append(self.ablation_cells())
        if self.detection is not None:
            tables.append(self.detection_cells())
        if self.transfer is not None:
            tables.append(self.transfer_cells())
        tables.append(self.bench_cells())
        trainings: dict[tuple[str, str, int], list[list[str]]] = {}
        for table in tables:
            for key, methods in table.items():
                cohorts = trainings.setdefault(key, [])
                known = {method for cohort in cohorts for method in cohort}
                cohorts += self.in_cohorts([method for method in methods if method not in known])
        return trainings

    def table1_cells(self) -> dict[tuple[str, str, int], list[str]]:
        """The methods that Table 1 shows, by pair, recipe and budget."""
        table = self.table1
        return {(pair, table.recipe, table.epochs): self.methods_of(pair) for pair in table.pairs}

    def choice_cells(self) -> dict[tuple[str, str, int], list[str]]:
        """The methods of the grid, by pair, recipe and budget."""
        grid = self.choice
        return {
            (pair, recipe, epochs): self.methods_of(pair)
            for pair in grid.pairs
            for recipe in grid.recipes
            for epochs in grid.epochs
        }

    def recipe_study_cells(self) -> dict[tuple[str, str, int], list[str]]:
        """The methods of the recipe study, by pair, recipe and budget."""
        study = self.recipe_study
        return {
            (study.pair, recipe, epochs): study.methods
            for recipe in study.recipes
            for epochs in study.epochs
        }

    def ablation_variants(self) -> dict[str, list[tuple[str, str, str]]]:
        """The pair, recipe and method of every variant, by group."""
        ablation = self.ablation

        def variant(name: str) -> tuple[str, str, str]:
            if name in self.pairs:
                return name, ablation.recipe, ablation.reference
            if name in self.recipes:
                return ablation.pair, name, ablation.reference
            return ablation.pair, ablation.recipe, name

        return {
            group: [variant(name) for name in names] for group, names in ablation.groups.items()
        }

    def ablation_cells(self) -> dict[tuple[str, str, int], list[str]]:
        """The methods of the ablation, by pair, recipe and budget: baseline and reference first."""
        ablation = self.ablation
        cells: dict[tuple[str, str, int], list[str]] = {}
        reference = (ablation.pair, ablation.recipe, ablation.reference)
        for variants in ([reference], *self.ablation_variants().values()):
            for pair, recipe, method in variants:
                both = [ablation.baseline, ablation.reference]
                methods = cells.setdefault((pair, recipe, ablation.epochs), both)
                if method not in methods:
                    methods.append(method)
        return cells

    def detection_cells(self) -> dict[tuple[str, str, int], list[str]]:
        """The methods whose students become backbones, by pair, recipe and budget."""
        detection = self.detection
        return {(detection.pair, detection.recipe, detection.epochs): detection.methods}

    def transfer_methods(self) -> list[str]:
        """The methods whose students are carried over to other data sets."""
        listed, baseline = self.transfer.methods, self.transfer.baseline
        if listed is None:
            listed = self.methods if baseline in self.methods else [baseline, *self.methods]
        return self.methods_of(self.transfer.pair, listed)

    def transfer_cells(self) -> dict[tuple[str, str, int], list[str]]:
        """The methods of the transfer study, by pair, recipe and budget."""
        transfer = self.transfer
        return {(transfer.pair, transfer.recipe, transfer.epochs): self.transfer_methods()}

    def transfer_data(self, name: str) -> Data:
        """A data set of the transfer study, in the form in which the students see images."""
        entry, own = self.transfer.data[name], self.data
        return Data(
            dataset=entry.dataset,
            folder=entry.folder,
            image_size=own.image_size,
            channels=own.channels,
            mean=own.mean,
            std=own.std,
            validation=entry.validation,
            crop=entry.crop,
            interpolation=entry.interpolation,
            verify=entry.verify,
        )

    def transfer_directory(self, name: str, method: str, seed: int) -> Path:
        return self.directory / "transfer" / name / method / f"seed-{seed}"

    def untrained_student(self, seed: int) -> Path:
        """The student of the transfer study as it was before a seed's first step."""
        return self.directory / "transfer" / f"seed-{seed}" / f"{UNTRAINED}.safetensors"

    def probe_identity(self, name: str, seed: int) -> dict[str, Any]:
        """What shapes the probes on a data set, except the bytes of the student's file."""
        transfer, entry = self.transfer, self.transfer.data[name]
        shaping = {
            "name": name,
            "data": self.transfer_data(name),
            "protocols": [protocol for protocol in entry.protocols if protocol != "fine-tuning"],
            "shots": entry.shots,
            "draws": transfer.draws,
            "linear_probe": transfer.linear_probe,
            "nearest_neighbours": transfer.nearest_neighbours,
            "seed": seed,
        }
        return to_plain(shaping)

    def fine_tuning_data(self, name: str) -> Data:
        """All training images, unless the held-out ones are what is evaluated on."""
        data = self.transfer_data(name)
        return dataclasses.replace(data, validation=0) if self.evaluation_split == "test" else data

    def fine_tuning_identity(self, name: str, seed: int) -> dict[str, Any]:
        """What shapes fine-tuned weights, except the bytes of the student's file."""
        entry = self.transfer.data[name]
        shaping = {
            "name": name,
            "data": self.fine_tuning_data(name),
            "recipe": self.recipes[entry.recipe],
            "epochs": entry.epochs,
            "seed": seed,
            "evaluation_split": self.evaluation_split,
        }
        return to_plain(shaping)

    def bench_cells(self) -> dict[tuple[str, str, int], list[str]]:
        """The methods of the full bench, by pair, recipe and budget."""
        table, methods = self.table1, self.bench_methods()
        return {
            (pair, table.recipe, table.epochs): self.methods_of(pair, methods)
            for pair in table.pairs
        }

    def detection_backbones(self) -> list[str]:
        """What detectors are trained on: random weights, and the students of the methods."""
        return [RANDOM, *self.detection.methods]

    def backbone_student(self, method: str, seed: int) -> Path | None:
        """The weights that a backbone starts from; None for random ones."""
        if method == RANDOM:
            return None
        of = self.detection
        return (
            self.cell_directory(of.pair, of.recipe, of.epochs, method, seed) / "student.safetensors"
        )

    def detection_jobs(self) -> list[list[str]]:
        """The backbones that are trained in one job, one after another."""
        size, backbones = self.detection.backbones_per_job, self.detection_backbones()
        return [backbones[i : i + size] for i in range(0, len(backbones), size)]

    def rehearsed_backbones(self) -> list[str]:
        """The first pair of each different student of Table 1."""
        first: dict[str, str] = {}
        for pair in self.table1.pairs:
            first.setdefault(fingerprint(self.pairs[pair].student), pair)
        return list(first.values())

    def teacher_identity(self, pair: str) -> dict[str, Any]:
        """What shapes the weights of a pair's teacher, where the workflow trains it."""
        teacher = self.pairs[pair].teacher
        shaping = {
            "data": self.data,
            "model": teacher.model,
            "recipe": teacher.recipe and self.recipes[teacher.recipe],
            "epochs": teacher.epochs,
            "seed": teacher.seed,
            "evaluation_split": self.evaluation_split,
        }
        return to_plain(shaping)

    def cell_identity(self, pair: str, recipe: str, epochs: int, method: str, seed: int) -> dict:
        """What shapes the weights of a cell, except the bytes of the teacher's file."""
        shaping = {
            "data": self.data,
            "pair": {
                key: value
                for key, value in vars(self.pairs[pair]).items()
                if key in ("student", "distilled_student", "layers", "most_tokens")
            },
            "teacher": {
                "model": self.pairs[pair].teacher.model,
                "input": self.pairs[pair].teacher.input,
            },
            "recipe": self.recipes[recipe],
            "epochs": epochs,
            "method": method,
            "distiller": self.method_definitions[method].distiller,
            "arguments": self.method_definitions[method].arguments,
            "student": self.method_definitions[method].student,
            "seed": seed,
            "evaluation_split": self.evaluation_split,
        }
        return to_plain(shaping)


# What a cell's weights depend on: a run that overrides any of these gets a folder of its own.
_SHAPING_SECTIONS = ("data", "pairs", "recipes", "method_definitions")


def resolve(overrides: dict[str, Any]) -> Experiment:
    """Merge the named scale with ``overrides`` (the content of ``--config`` and config files).

    Raises:
        UserError: an unknown or missing key, a value of the wrong type, a name that nothing
            defines, or a combination that cannot be run.
    """
    overrides = dict(overrides)
    scale = overrides.pop("scale", None)
    if not isinstance(scale, str):
        raise UserError(
            f"'scale' must be one of {', '.join(_known_scales())} or a .yaml file, got {scale!r}"
        )
    base = _load_scale(scale)
    name = Path(scale).stem
    unnamed = {"name": name, "scale": name}
    own = _build(Experiment, {**_complete_transfer(base), **unnamed}, "", _Origin({}, scale))
    merged = _join_own_methods(merge(base, overrides), base, overrides)
    merged = _complete_transfer(merged)
    given = {} if merged.get("name") is None else {"name": merged["name"]}
    experiment = _build(Experiment, {**merged, **unnamed, **given}, "", _Origin(overrides, scale))
    if not given:
        experiment = dataclasses.replace(experiment, name=_experiment_name(experiment, own))
    if experiment.transfer is not None:
        kept = {name: data for name, data in experiment.transfer.data.items() if data is not None}
        transfer = dataclasses.replace(experiment.transfer, data=kept)
        experiment = dataclasses.replace(experiment, transfer=transfer)
    _check(experiment)
    return experiment


OWN_METHODS = "Your methods"  # their group in the ablation


def _join_own_methods(merged: dict, base: dict, overrides: dict) -> dict:
    """Put methods that the user defines into every table that the user does not list otherwise."""
    given = overrides.get("method_definitions")
    own = (
        [name for name in given if name not in base["method_definitions"]]
        if (isinstance(given, dict))
        else []
    )
    if not own:
        return merged
    joined = dict(merged)
    if "methods" not in overrides:
        joined["methods"] = [*base["methods"], *own]
    tables = (
        *(("recipe_study", "methods"), ("ablation", "groups")),
        *(("transfer", "methods"), ("detection", "methods")),
    )
    for section, key in tables:
        listed = (base.get(section) or {}).get(key)
        if listed is None or not merged.get(section) or key in (overrides.get(section) or {}):
            continue
        more = {**listed, OWN_METHODS: own} if isinstance(listed, dict) else [*listed, *own]
        joined[section] = {**merged[section], key: more}
    return joined


def _complete_transfer(content: dict) -> dict:
    """Lay every data set of the transfer study over the study's defaults."""
    transfer = content.get("transfer")
    if not isinstance(transfer, dict):
        return content
    defaults, data = transfer.get("defaults"), transfer.get("data")
    if not isinstance(defaults, dict) or not isinstance(data, dict):
        return content
    completed = {
        name: merge(defaults, entry) if isinstance(entry, dict) else entry
        for name, entry in data.items()
    }
    return {**content, "transfer": {**transfer, "data": completed}}


def parse_words(words: list[str]) -> dict[str, Any]:
    """Read ``key=value`` words as ``snakemake --config`` does: the value is YAML."""
    overrides: dict[str, Any] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise UserError(f"--config expects key=value, got {word!r}")
        try:
            overrides = merge(overrides, {key: yaml.safe_load(value)})
        except yaml.YAMLError as error:
            raise UserError(f"--config {word!r}: the value is not YAML: {error}") from error
    return overrides


def to_words(overrides: dict[str, Any]) -> list[str]:
    """The inverse of ``parse_words``."""
    return [f"{key}={json.dumps(value)}" for key, value in sorted(overrides.items())]


def to_plain(value: Any) -> Any:
    """Return dataclasses, mappings and lists as plain JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: to_plain(item) for key, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a configuration."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    try:
        return read_yaml_text(path.read_text(), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None


def read_yaml_text(text: str, name: str) -> dict[str, Any]:
    """Read a YAML mapping that ``name`` gave.

    Raises:
        UserError: it is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} must hold a mapping, got {type(content).__name__}")
    return content


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """Return "Did you mean …?" for a misspelt name, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=3)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


# ---------------------------------------------------------------------------------------------


def _load_recipe(recipe: Any) -> Any:
    """Read a recipe: the path of its file, or a mapping that may extend such a file."""
    if isinstance(recipe, str):
        return _load_recipe(read_yaml(ROOT / recipe))
    if isinstance(recipe, dict) and "extends" in recipe:
        changes = {key: value for key, value in recipe.items() if key != "extends"}
        return merge(_load_recipe(recipe["extends"]), changes)
    return recipe


def _known_scales() -> list[str]:
    return sorted(path.stem for path in (ROOT / "config/scales").glob("*.yaml"))


def _load_scale(scale: str) -> dict[str, Any]:
    """Read a scale's file over the one that it extends, recipe files and methods filled in."""
    if scale.endswith((".yaml", ".yml")):
        content = read_yaml(Path(scale))
    else:
        path = ROOT / "config/scales" / f"{scale}.yaml"
        if not path.is_file():
            raise UserError(
                f"unknown scale {scale!r}.{suggest(scale, _known_scales())} "
                f"Known: {', '.join(_known_scales())}, or the path of a .yaml file"
            )
        content = read_yaml(path)
    recipes = content.get("recipes")
    if isinstance(recipes, dict):
        content["recipes"] = {name: _load_recipe(recipe) for name, recipe in recipes.items()}
    extended = content.pop("extends", None)
    if extended is None:
        below = {"method_definitions": read_yaml(ROOT / "config/methods.yaml")}
    else:
        below = _load_scale(extended)
    return merge(below, content)


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``overrides`` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _experiment_name(experiment: Experiment, own: Experiment) -> str:
    """The scale's name; with a hash of what shapes the weights, where the user overrides that."""
    changed = {}
    for section in _SHAPING_SECTIONS:
        mine, theirs = getattr(experiment, section), getattr(own, section)
        if isinstance(theirs, dict):  # a new entry shapes no cells but its own
            mine = {name: mine[name] for name in theirs}
        if mine != theirs:
            changed[section] = mine
    return experiment.scale + (f"-{fingerprint(changed)[:8]}" if changed else "")


@dataclass(frozen=True)
class _Origin:
    """Tells which of the sources a key came from, for the messages."""

    overrides: dict[str, Any]
    scale: str

    def of(self, path: str) -> str:
        node: Any = self.overrides
        for key in path.split("."):
            if not isinstance(node, dict) or key not in node:
                return f"scale {self.scale!r}"
            node = node[key]
        return "--config or --configfile"


def _build(kind: Any, value: Any, path: str, origin: _Origin) -> Any:
    """Check ``value`` against the type ``kind`` and return it as that type."""
    arguments = typing.get_args(kind)
    outer = typing.get_origin(kind)
    if isinstance(value, str):
        value = _read_text(kind, value)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _build_section(kind, value, path, origin)
    if outer is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _wrong(path, f"one of {', '.join(map(repr, arguments))}", value, origin)
        return value
    if outer in (typing.Union, types.UnionType):
        if value is None:
            return None
        (present,) = [argument for argument in arguments if argument is not type(None)]
        return _build(present, value, path, origin)
    if outer is list:
        if not isinstance(value, list):
            raise _wrong(path, "a list", value, origin)
        return [_build(arguments[0], v, f"{path}[{i}]", origin) for i, v in enumerate(value)]
    if outer is dict:
        if not isinstance(value, dict):
            raise _wrong(path, "a mapping", value, origin)
        return {
            _build(arguments[0], key, path, origin): _build(
                arguments[1], item, f"{path}.{key}", origin
            )
            for key, item in value.items()
        }
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
        raise _wrong(path, names[kind], value, origin)
    return value


def _read_text(kind: Any, text: str) -> Any:
    """Read a number, truth value or null where the type asks for one.

    Snakemake hands the values inside ``--config key={...}`` and ``--config key=[...]`` on as text.
    """
    wanted: tuple[type, ...] = {int: (int,), float: (int, float), bool: (bool,)}.get(kind, ())
    if kind is Any:
        wanted = (bool, int, float, type(None))
    elif typing.get_origin(kind) is Literal:
        wanted = tuple({type(choice) for choice in typing.get_args(kind)} - {str})
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        wanted = (type(None),)
    with contextlib.suppress(yaml.YAMLError):
        value = yaml.safe_load(text)
        if type(value) in wanted:
            return value
    if kind is float or (kind is Any and text[:1].isdigit()):  # YAML 1.1 reads 3e3 as text
        with contextlib.suppress(ValueError):
            return float(text)
    return text


def _build_section(kind: Any, value: Any, path: str, origin: _Origin) -> Any:
    if not isinstance(value, dict):
        raise _wrong(path, f"a mapping ({kind.__name__})", value, origin)
    hints = typing.get_type_hints(kind)
    where = path or "the top level"
    for key in value:
        if key not in hints:
            full = f"{path}.{key}".lstrip(".")
            raise UserError(
                f"{origin.of(full)}: unknown key {key!r} in {where}.{suggest(key, hints)} "
                f"Known keys: {', '.join(hints)}"
            )
    missing = [key for key in hints if key not in value]
    if missing:
        raise UserError(f"scale {origin.scale!r}: {where} lacks {', '.join(missing)}")
    return kind(
        **{
            key: _build(hints[key], value[key], f"{path}.{key}".lstrip("."), origin)
            for key in hints
        }
    )


def _wrong(path: str, expected: str, value: Any, origin: _Origin) -> UserError:
    return UserError(
        f"{origin.of(path)}: {path} must be {expected}, got {value!r} ({type(value).__name__})"
    )


def _check(experiment: Experiment) -> None:
    """Refuse what the types allow and no run can use."""
    _check_names(experiment)
    _check_numbers(experiment)
    for name, pair in experiment.pairs.items():
        _check_pair(experiment, name, pair)
    for name, recipe in experiment.recipes.items():
        _check_recipe(name, recipe)
    _check_machine(experiment.machine)
    _check_rehearsal(experiment.rehearsal)


def _check_pair(experiment: Experiment, name: str, pair: Pair) -> None:
    teacher = pair.teacher
    made_here = (TRAIN_TEACHER, PRETRAINED, UNTRAINED)
    if teacher.weights not in made_here and not Path(teacher.weights).is_file():
        raise UserError(
            f"pairs.{name}.teacher.weights: no file {teacher.weights!r}; give the path of a "
            f".safetensors or .pth file, {PRETRAINED!r} for timm's weights of that name, "
            f"{TRAIN_TEACHER!r} to train the teacher here, or {UNTRAINED!r} for a control"
        )
    if teacher.weights == UNTRAINED and teacher.seed is None:
        raise UserError(f"pairs.{name}.teacher.seed must be given to initialise the teacher here")
    if teacher.weights == TRAIN_TEACHER:
        for key in ("recipe", "epochs", "seed"):
            if getattr(teacher, key) is None:
                raise UserError(
                    f"pairs.{name}.teacher.{key} must be given to train the teacher here"
                )
        if teacher.epochs < 1:
            raise UserError(f"pairs.{name}.teacher.epochs must be at least 1, got {teacher.epochs}")
    if teacher.recipe is not None and teacher.recipe not in experiment.recipes:
        raise _unknown(f"pairs.{name}.teacher.recipe", teacher.recipe, experiment.recipes)
    if teacher.input is not None:
        for key in ("mean", "std"):
            _check_channels(f"pairs.{name}.teacher.input.{key}", teacher.input, key, experiment)
    for map_name, layers in pair.layers.items():
        if len(layers.student) != len(layers.teacher) or not layers.student:
            raise UserError(
                f"pairs.{name}.layers.{map_name}: student and teacher must list equally many "
                f"blocks, at least one; got {layers.student} and {layers.teacher}"
            )


def _check_channels(path: str, section: Any, key: str, experiment: Experiment) -> None:
    values, channels = getattr(section, key), experiment.data.channels
    if len(values) != channels:
        raise UserError(f"{path} has {len(values)} values for {channels} channel(s)")


def _check_names(experiment: Experiment) -> None:
    definitions = experiment.method_definitions
    if not experiment.methods:
        raise UserError("methods must list at least one method")
    for method in experiment.methods:
        if method not in definitions:
            raise _unknown("methods", method, definitions)
    for name, pair in experiment.pairs.items():
        for method in pair.methods or []:
            if method not in definitions:
                raise _unknown(f"pairs.{name}.methods", method, definitions)
    for key in ("methods", "seeds", "bench"):
        values = getattr(experiment, key)
        doubles = sorted({str(value) for value in values if values.count(value) > 1})
        if doubles:
            raise UserError(f"{key} lists {', '.join(doubles)} more than once")
    table = experiment.table1
    if not table.pairs:
        raise UserError("table1.pairs must list at least one pair")
    for pair in (*table.pairs, *table.claims):
        if pair not in experiment.pairs:
            raise _unknown("table1.pairs", pair, experiment.pairs)
    if table.recipe not in experiment.recipes:
        raise _unknown("table1.recipe", table.recipe, experiment.recipes)
    if experiment.choice is not None:
        for key, known in (("pairs", experiment.pairs), ("recipes", experiment.recipes)):
            for name in getattr(experiment.choice, key):
                if name not in known:
                    raise _unknown(f"choice.{key}", name, known)
    if experiment.recipe_study is not None:
        _check_recipe_study(experiment)
    if experiment.ablation is not None:
        _check_ablation(experiment)
    if experiment.detection is not None:
        _check_detection(experiment)
    for method in experiment.bench:
        if method not in definitions:
            raise _unknown("bench", method, definitions)
    for pair in table.pairs:
        methods = experiment.methods_of(pair)
        if table.baseline not in methods:
            raise UserError(
                f"table1.baseline {table.baseline!r} is not among the methods that run for pair "
                f"{pair!r} ({', '.join(methods)}); gains are taken over it, so add it"
            )
    for name in (experiment.name, *experiment.pairs, *experiment.recipes, *definitions):
        _check_folder_name(name)
    if experiment.transfer is not None:
        _check_transfer(experiment)


def _check_recipe_study(experiment: Experiment) -> None:
    study = experiment.recipe_study
    for key, names, known in (
        ("pair", [study.pair], experiment.pairs),
        ("recipes", study.recipes, experiment.recipes),
        ("methods", study.methods, experiment.method_definitions),
        ("baseline", [study.baseline], study.methods),
    ):
        for name in names:
            if name not in known:
                raise _unknown(f"recipe_study.{key}", name, known)
    for key in ("recipes", "epochs", "methods"):
        values = getattr(study, key)
        if len(set(values)) != len(values) or len(values) < 2:
            raise UserError(
                f"recipe_study.{key} must list at least two different values: the study compares "
                f"them; got {values}"
            )
    if min(study.epochs) < 1:
        raise UserError(f"recipe_study.epochs must be at least 1, got {study.epochs}")


def _check_ablation(experiment: Experiment) -> None:
    ablation = experiment.ablation
    definitions = experiment.method_definitions
    for key, name, known in (
        ("pair", ablation.pair, experiment.pairs),
        ("recipe", ablation.recipe, experiment.recipes),
        ("reference", ablation.reference, definitions),
        ("baseline", ablation.baseline, definitions),
    ):
        if name not in known:
            raise _unknown(f"ablation.{key}", name, known)
    if ablation.baseline == ablation.reference:
        raise UserError(
            f"ablation: baseline and reference are both {ablation.reference!r}; gains are taken "
            "over another method"
        )
    if ablation.epochs < 1:
        raise UserError(f"ablation.epochs must be at least 1, got {ablation.epochs}")
    taken = {ablation.pair, ablation.recipe, ablation.reference, ablation.baseline}
    for group, variants in ablation.groups.items():
        for name in variants:
            kinds = (experiment.pairs, experiment.recipes, definitions)
            found = sum(name in known for known in kinds)
            if not found:
                known = [*experiment.pairs, *experiment.recipes, *definitions]
                raise _unknown(f"ablation.groups.{group}", name, known)
            if found > 1:
                raise UserError(
                    f"ablation.groups.{group}: {name!r} names more than one of a pair, a recipe "
                    "and a method; rename one of them"
                )
            if name in taken:
                raise UserError(
                    f"ablation.groups.{group}: {name!r} stands in the ablation already, once is "
                    "enough"
                )
            taken.add(name)


def _check_transfer(experiment: Experiment) -> None:
    transfer = experiment.transfer
    definitions = experiment.method_definitions
    for key, names, known in (
        ("pair", [transfer.pair], experiment.pairs),
        ("recipe", [transfer.recipe], experiment.recipes),
        ("methods", transfer.methods or [], definitions),
    ):
        for name in names:
            if name not in known:
                raise _unknown(f"transfer.{key}", name, known)
    methods = experiment.transfer_methods()
    if transfer.baseline not in methods:
        raise UserError(
            f"transfer.baseline {transfer.baseline!r} is not among transfer.methods "
            f"({', '.join(methods)}); gains are taken over it, so add it"
        )
    if len(set(methods)) != len(methods) or UNTRAINED in methods:
        raise UserError(
            f"transfer.methods must name each method once, and none {UNTRAINED!r}, which is the "
            f"row of the initialised student; got {methods}"
        )
    probe, near = transfer.linear_probe, transfer.nearest_neighbours
    for key, values in (
        ("linear_probe.regularisation", probe.regularisation),
        ("nearest_neighbours.neighbours", near.neighbours),
    ):
        if not values or min(values) <= 0:
            raise UserError(
                f"transfer.{key} must list positive numbers to choose from, got {values}"
            )
    for key, value in (
        ("epochs", transfer.epochs),
        ("draws", transfer.draws),
        ("linear_probe.iterations", probe.iterations),
        ("linear_probe.tolerance", probe.tolerance),
        ("nearest_neighbours.temperature", near.temperature),
    ):
        if value <= 0:
            raise UserError(f"transfer.{key} must be positive, got {value}")
    if not transfer.data:
        raise UserError("transfer.data must name at least one data set")
    for name, entry in transfer.data.items():
        _check_transfer_data(experiment, f"transfer.data.{name}", name, entry)


def _check_transfer_data(experiment: Experiment, where: str, name: str, entry: TransferData):
    _check_folder_name(name)
    if name == TRANSFER_MEAN:
        raise UserError(f"{where}: this name stands for the mean over the data sets; take another")
    if entry.recipe not in experiment.recipes:
        raise _unknown(f"{where}.recipe", entry.recipe, experiment.recipes)
    if entry.epochs < 1:
        raise UserError(f"{where}.epochs must be at least 1, got {entry.epochs}")
    for key in ("protocols", "shots"):
        values = getattr(entry, key)
        if len(set(values)) != len(values):
            raise UserError(f"{where}.{key} lists a value more than once: {values}")
    if not entry.protocols:
        raise UserError(f"{where}.protocols must list at least one protocol")
    if entry.shots and min(entry.shots) < 1:
        raise UserError(f"{where}.shots must be at least 1 image of each class, got {entry.shots}")
    if entry.protocols != ["fine-tuning"] and entry.validation < 1:
        raise UserError(
            f"{where}.validation must be at least 1, got {entry.validation}: C and k are chosen on "
            "these images"
        )


def _check_folder_name(name: str) -> None:
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise UserError(
            f"{name!r} names a folder of the results: use letters, digits, '-', '_' and '.'"
        )


def _check_detection(experiment: Experiment) -> None:
    detection = experiment.detection
    for key, names, known in (
        ("pair", [detection.pair], experiment.pairs),
        ("recipe", [detection.recipe], experiment.recipes),
        ("methods", detection.methods, experiment.method_definitions),
        ("baseline", [detection.baseline], detection.methods),
    ):
        for name in names:
            if name not in known:
                raise _unknown(f"detection.{key}", name, known)
    methods = detection.methods
    doubles = sorted({method for method in methods if methods.count(method) > 1})
    if doubles:
        raise UserError(f"detection.methods lists {', '.join(doubles)} more than once")
    if RANDOM in methods:
        raise UserError(
            f"detection.methods: {RANDOM!r} stands for random weights, which are always there; "
            "rename the method"
        )
    for key in ("epochs", "backbones_per_job"):
        if getattr(detection, key) < 1:
            raise UserError(f"detection.{key} must be at least 1, got {getattr(detection, key)}")
    if detection.pictures < 0:
        raise UserError(f"detection.pictures must not be negative, got {detection.pictures}")
    if not detection.detectors:
        raise UserError(
            "detection.detectors must name at least one detector and its configuration file"
        )
    data = detection.data
    if (data.scenes is None) == (data.folder is None):
        raise UserError(
            "detection.data: give either scenes or folder, and null for the other; got "
            f"{'neither' if data.scenes is None else 'both'}"
        )
    if data.scenes is not None:
        _check_scenes(data.scenes)


def _check_scenes(scenes: Scenes) -> None:
    path = "detection.data.scenes"
    for key in ("items", "sides"):
        bounds = getattr(scenes, key)
        if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
            raise UserError(
                f"{path}.{key} must be the smallest and the largest, at least 1; got {bounds}"
            )
    if len(scenes.size) != 2 or min(scenes.size) < scenes.sides[1]:
        raise UserError(
            f"{path}.size must be a width and a height of at least the largest of sides, "
            f"{scenes.sides[1]}; got {scenes.size}"
        )
    for key in ("train", "test", "tries"):
        if getattr(scenes, key) < 1:
            raise UserError(f"{path}.{key} must be at least 1, got {getattr(scenes, key)}")
    for key in ("least_visible", "brightness"):
        if not 0 < getattr(scenes, key) <= 1:
            raise UserError(f"{path}.{key} must lie in (0, 1], got {getattr(scenes, key)}")
    if scenes.foreground is not None and not 0 <= scenes.foreground < 1:
        raise UserError(
            f"{path}.foreground must lie in [0, 1), or be null for whole rectangles; got "
            f"{scenes.foreground}"
        )
    photographs = scenes.photographs
    for split in ("train", "test"):
        if not getattr(photographs, split):
            raise UserError(f"{path}.photographs.{split} must name at least one photograph")
    both = sorted(set(photographs.train) & set(photographs.test))
    if both:
        raise UserError(
            f"{path}.photographs: {', '.join(both)} would stand in training and in test scenes; "
            "take it out of one"
        )


def _check_numbers(experiment: Experiment) -> None:
    if len(experiment.seeds) < 2:
        raise UserError(
            f"seeds: {experiment.seeds} has {len(experiment.seeds)}; a table with intervals needs "
            "at least two, for instance seeds=[0,1,2]"
        )
    if not 0 < experiment.statistics.confidence < 1:
        raise UserError("statistics.confidence must lie between 0 and 1")
    size = experiment.cohort.size
    if size is not None and size < 1:
        raise UserError(f"cohort.size must be positive, or null for all methods; got {size}")
    data = experiment.data
    for key in ("mean", "std"):
        _check_channels(f"data.{key}", data, key, experiment)
    if data.validation < 0:
        raise UserError(f"data.validation must not be negative, got {data.validation}")
    if data.validation == 0 and experiment.evaluation_split == "validation":
        raise UserError("data.validation is 0, and evaluation_split: validation needs some images")
    positive = {"data.image_size": data.image_size, "table1.epochs": experiment.table1.epochs}
    for key, value in positive.items():
        if value < 1:
            raise UserError(f"{key} must be at least 1, got {value}")


def _check_recipe(name: str, recipe: Recipe) -> None:
    for key in ("batch_size", "shards", "repeats"):
        if getattr(recipe, key) < 1:
            raise UserError(f"recipes.{name}.{key} must be at least 1, got {getattr(recipe, key)}")
    if recipe.batch_size % recipe.shards:
        raise UserError(
            f"recipes.{name}.batch_size {recipe.batch_size} cannot be drawn in {recipe.shards} "
            "equal shards"
        )
    if recipe.mixing and recipe.batch_size // recipe.shards % 2:
        raise UserError(
            f"recipes.{name}.batch_size must give each of the {recipe.shards} shard(s) an even "
            f"number of images for mixup, got {recipe.batch_size // recipe.shards}"
        )
    if recipe.schedule.lags_one_epoch and recipe.schedule.per != "epoch":
        raise UserError(f"recipes.{name}.schedule.lags_one_epoch needs per: epoch")
    distillation = recipe.distillation
    if not 0 <= distillation.alpha <= 1:
        raise UserError(
            f"recipes.{name}.distillation.alpha must lie in [0, 1], got {distillation.alpha}"
        )
    if distillation.temperature <= 0:
        raise UserError(
            f"recipes.{name}.distillation.temperature must be positive, got "
            f"{distillation.temperature}"
        )


def _check_rehearsal(rehearsal: Rehearsal) -> None:
    if not 0 < rehearsal.killed_after < rehearsal.steps:
        raise UserError(
            f"rehearsal.killed_after {rehearsal.killed_after} must come before the last of "
            f"rehearsal.steps {rehearsal.steps}"
        )
    if rehearsal.batch_size % rehearsal.shards or rehearsal.shards % rehearsal.processes:
        raise UserError(
            f"rehearsal: batch_size {rehearsal.batch_size} must be a multiple of shards "
            f"{rehearsal.shards}, and those of processes {rehearsal.processes}"
        )


def _check_machine(machine: Machine) -> None:
    counts = ("nodes", "processes", "jobs_per_gpu", "threads", "evaluation_batch_size")
    for key in (*counts, "shards_per_pass"):
        value = getattr(machine, key)
        if value is not None and value < 1:
            raise UserError(f"machine.{key} must be at least 1, got {value}")


def _unknown(key: str, name: str, known: typing.Iterable[str]) -> UserError:
    known = list(known)
    return UserError(f"{key}: unknown {name!r}.{suggest(name, known)} Known: {', '.join(known)}")
