"""The setting that the cells of a cohort share, and the objects that are built from both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manifold.distiller import Distiller, FrozenTeacher
from manifold.errors import UserError, told
from manifold.files import sha256
from manifold.models import create_model, load_weights
from manifold.ranks import ALONE, Ranks
from manifold.seeds import derive, reseed
from manifold.settings import (
    Data,
    Experiment,
    LayerMap,
    Pair,
    Recipe,
    fingerprint,
    suggest,
    to_plain,
)
from manifold.settings.data import epoch_of
from manifold.training import records
from manifold.training.arguments import checked_arguments, find_distiller
from manifold.training.cells import Cell, student_model
from manifold.training.cohort import Cohort, Member

CPU = torch.device("cpu")


@dataclass
class Setting:
    """What the cells of one cohort share."""

    experiment: Experiment
    pair: Pair
    pair_name: str
    recipe: Recipe
    recipe_name: str
    epochs: int
    seed: int
    teacher_weights: Path | None
    state: Path
    device: torch.device = CPU
    ranks: Ranks = ALONE

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.experiment.data.image_shape

    @property
    def manner(self) -> dict[str, Any]:
        """How it runs, which changes no result beyond rounding; records keep it."""
        return to_plain({"machine": self.experiment.machine, "cohort": self.experiment.cohort})


def student_setting(
    experiment: Experiment,
    pair: str,
    recipe: str,
    epochs: int,
    methods: list[str],
    seed: int,
    processes: tuple[Ranks, torch.device] | None = None,
) -> tuple[Setting, list[Cell]]:
    """The setting and the cells of ``methods`` for one seed.

    Args:
        processes: this process's rank and device, from ``ranks.start``; by default it is alone.
    """
    ranks, device = processes or (ALONE, torch.device(experiment.machine.device))
    weights = experiment.teacher_weights(pair)
    directory = experiment.directory / "state" / pair / recipe / f"{epochs}-epochs"
    setting = Setting(
        experiment=experiment,
        pair=experiment.pairs[pair],
        pair_name=pair,
        recipe=experiment.recipes[recipe],
        recipe_name=recipe,
        epochs=epochs,
        seed=seed,
        teacher_weights=weights,
        state=directory / f"seed-{seed}-{fingerprint(sorted(methods))[:8]}.pt",
        ranks=ranks,
        device=device,
    )
    if not weights.is_file():
        raise UserError(
            f"{weights}: no teacher there; train it first (the workflow's rule does, or this "
            f"command with --teacher), or correct pairs.{pair}.teacher.weights"
        )
    teacher = sha256(weights)
    cells = []
    for method in methods:
        definition = experiment.method_definitions[method]
        identity = experiment.cell_identity(pair, recipe, epochs, method, seed)
        student = student_model(setting.pair, pair, method, definition)
        directory = experiment.cell_directory(pair, recipe, epochs, method, seed)
        identity["teacher_sha256"] = teacher
        cells.append(Cell(method, definition, student, directory, identity))
    return setting, cells


def teacher_setting(
    experiment: Experiment, pair: str, processes: tuple[Ranks, torch.device] | None = None
) -> tuple[Setting, list[Cell]]:
    """The setting and the one cell in which a pair's teacher is trained, without distillation."""
    ranks, device = processes or (ALONE, torch.device(experiment.machine.device))
    teacher = experiment.pairs[pair].teacher
    setting = Setting(
        experiment=experiment,
        pair=experiment.pairs[pair],
        pair_name=pair,
        recipe=experiment.recipes[teacher.recipe],
        recipe_name=teacher.recipe,
        epochs=teacher.epochs,
        seed=teacher.seed,
        teacher_weights=None,
        state=experiment.directory / "state" / pair / "teacher.pt",
        ranks=ranks,
        device=device,
    )
    cell = Cell(
        method="none",
        definition=experiment.method_definitions["none"],
        student=teacher.model,
        directory=experiment.teacher_directory(pair),
        identity=experiment.teacher_identity(pair),
    )
    return setting, [cell]


def build_teacher(setting: Setting, classes: int) -> FrozenTeacher | None:
    """Create the teacher and load its weights; None where the setting has none."""
    if setting.teacher_weights is None:
        return None
    model = create_model(setting.pair.teacher.model, setting.image_shape, classes)
    records.check_weights(setting.teacher_weights)
    load_weights(model, setting.teacher_weights, f"the teacher of pair {setting.pair_name!r}")
    teacher = freeze(setting, model)
    teacher.sha256 = sha256(setting.teacher_weights)
    return teacher


def freeze(setting: Setting, model: nn.Module) -> FrozenTeacher:
    """The teacher around its network, with the normalisation that its weights expect."""
    data, seen_by = setting.experiment.data, setting.pair.teacher.input
    rescale = None
    if seen_by is not None and (seen_by.mean, seen_by.std) != (data.mean, data.std):
        own_mean, own_std, mean, std = (
            torch.tensor(values, device=setting.device)
            for values in (data.mean, data.std, seen_by.mean, seen_by.std)
        )
        rescale = (own_std / std, (own_mean - mean) / std)
    model = model.to(setting.device)
    if setting.experiment.machine.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return FrozenTeacher(model, setting.pair.most_tokens, rescale)


def build_distiller(
    setting: Setting, cell: Cell, teacher: FrozenTeacher | None, classes: int
) -> Distiller:
    """Create the student and the method around it, each from its own seed.

    Raises:
        UserError: the method's class, an argument or a layer does not exist; grids do not match.
    """
    definition = cell.definition
    kind = find_distiller(cell.method, definition)
    reseed(derive(setting.seed, "initialisation"))
    own_classes = cell.start.classes if cell.start else classes
    student = create_model(cell.student, setting.image_shape, own_classes, setting.recipe.drop_path)
    if cell.start:
        load_weights(student, cell.start.weights, f"the student of {cell.method!r}")
        reseed(derive(setting.seed, "classifier"))
        student.reset_classifier(classes)
    reseed(derive(setting.seed, "auxiliary", cell.method))
    try:
        arguments = checked_arguments(kind, definition.arguments)
        if "layers" in arguments:
            arguments["layers"] = _layer_map(setting, arguments["layers"])
        of_recipe = {
            "alpha": setting.recipe.distillation.alpha,
            "temperature": setting.recipe.distillation.temperature,
        }
        distiller = kind(
            student,
            teacher,
            image_shape=setting.image_shape,
            most_tokens=setting.pair.most_tokens,
            label_smoothing=setting.recipe.label_smoothing,
            relational_ranks=setting.ranks if setting.recipe.relational_batch == "batch" else ALONE,
            **(of_recipe | arguments),
        )
    except UserError as error:
        raise UserError(f"method {cell.method!r}, pair {setting.pair_name!r}: {error}") from error
    except Exception as error:  # a method of the user's own may fail in any way
        raise UserError(
            f"method {cell.method!r}, pair {setting.pair_name!r}: {definition.distiller} refuses "
            f"its arguments {definition.arguments}: {told(error)}; correct them "
            "(config/methods.yaml, or method_definitions of your own)"
        ) from error
    distiller = distiller.to(setting.device)
    machine = setting.experiment.machine
    if machine.channels_last:
        distiller = distiller.to(memory_format=torch.channels_last)
    if machine.compile is not None:
        distiller.compile(machine.compile)
    return distiller


def _layer_map(setting: Setting, name: Any) -> LayerMap:
    maps = setting.pair.layers
    if not isinstance(name, str) or name not in maps:
        raise UserError(
            f"the pair has no layer map {name!r}.{suggest(name, maps)} Known: {', '.join(maps)}"
        )
    return maps[name]


def build_cohort(setting: Setting, cells: list[Cell], classes: int, steps: int) -> Cohort:
    """Create the teacher, every student and every method of a cohort."""
    teacher = build_teacher(setting, classes)
    members = [
        Member(
            cell.method,
            build_distiller(setting, cell, teacher, classes),
            setting.recipe,
            seed=setting.seed,
            epochs=setting.epochs,
            steps_per_epoch=steps,
            ranks=setting.ranks,
            fused_optimizer=setting.experiment.machine.fused_optimizer,
            gradient_steps=setting.experiment.cohort.gradient_steps,
        )
        for cell in cells
    ]
    return Cohort(members, teacher)


def passes_per_step(setting: Setting) -> int:
    """In how many forward and backward passes a process goes through its shards.

    Raises:
        UserError: the processes, or the passes, cannot share the shards out equally; or the
            relational batch is the whole batch, which several passes never see together.
    """
    name, recipe, ranks = setting.recipe_name, setting.recipe, setting.ranks
    if recipe.shards % ranks.count:
        raise UserError(
            f"recipes.{name}.shards is {recipe.shards}, and {ranks.count} processes cannot share "
            "them out equally; start a number of processes that divides it (machine.processes)"
        )
    own = recipe.shards // ranks.count
    together = setting.experiment.machine.shards_per_pass or own
    if own % together:
        raise UserError(
            f"machine.shards_per_pass is {together}, which does not divide the {own} shard(s) of "
            f"each process (recipes.{name}.shards {recipe.shards}, {ranks.count} process(es))"
        )
    if recipe.relational_batch == "batch" and together != own:
        raise UserError(
            f"recipes.{name}.relational_batch: batch needs all of a process's {own} shards in one "
            f"pass, and machine.shards_per_pass is {together}; set it to null and start more "
            "processes if memory does not suffice"
        )
    return own // together


def steps_per_epoch(images: int, data: Data, recipe: Recipe, name: str) -> int:
    """Full batches in an epoch of a training split of ``images``.

    Raises:
        UserError: there is not one.
    """
    shown = epoch_of(images, data)
    if shown < recipe.batch_size:
        is_set = data.least_images_per_epoch is not None
        raise UserError(
            f"recipes.{name}.batch_size {recipe.batch_size} is larger than the training split of "
            f"{images} images; lower it, or {'raise' if is_set else 'set'} least_images_per_epoch "
            f"of the data ({data.least_images_per_epoch or 'as scale folder does'}), so that an "
            "epoch goes through them several times"
        )
    return shown // recipe.batch_size
