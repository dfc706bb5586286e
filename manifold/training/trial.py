"""One small batch through one step of every method, before anything is trained.

What a training is made of is built as it builds it: transforms, mixing, networks, methods,
optimizer and schedule. So what cannot run is told at once, whichever library refuses it.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manifold.distiller import Distiller, FrozenTeacher
from manifold.errors import Faults, UserError, told
from manifold.models import count_parameters, create_model
from manifold.ranks import Ranks
from manifold.seeds import derive
from manifold.settings import Machine, Model
from manifold.settings.recipe import check_warmup
from manifold.training.cells import Cell
from manifold.training.cohort import Member
from manifold.training.data import Mixer, Splits, evaluation_transform, train_transform
from manifold.training.runs import Setting, build_distiller, passes_per_step, steps_per_epoch

IMAGES = 4  # of the batch: relations need some, and the mixing an even number


def try_cohort(
    setting: Setting,
    cells: list[Cell],
    teacher: FrozenTeacher | None,
    splits: Splits,
    faults: Faults,
) -> dict[str, dict[str, Any]]:
    """Try the methods of all cells, each by itself.

    Args:
        setting: on the CPU, alone and without compiling: it is tried where Snakemake runs.
        faults: takes what is wrong.

    Returns:
        Parameters and token layouts of the methods that could be built, by name.
    """
    machine, name = setting.experiment.machine, setting.recipe_name
    steps, batch = 1, None
    with faults.collected():
        steps = steps_per_epoch(len(splits.train), setting.experiment.data, setting.recipe, name)
    with faults.collected():
        check_warmup(name, setting.recipe, setting.epochs)
    with faults.collected():
        passes_per_step(replace(setting, ranks=Ranks(0, machine.nodes * machine.processes)))
    with faults.collected():
        batch = _first_batch(setting, splits)
    found, failing = {}, {}
    for cell in cells:
        with faults.collected():
            distiller = build_distiller(setting, cell, teacher, len(splits.classes))
            found[cell.method] = _describe(distiller)
            if failure := _step(setting, cell.method, distiller, steps, batch):
                failing.setdefault(failure, []).append(cell.method)
    for failure, methods in failing.items():
        names = ", ".join(map(repr, methods))
        faults.add(
            f"method {names}, pair {setting.pair_name!r}, recipe {name!r}: the first step fails: "
            f"{failure}"
        )
    return found


def check_network(
    model: Model, image_shape: tuple[int, int, int], classes: int, where: str
) -> None:
    """Create a network and run it on one image.

    Args:
        where: begins the message.

    Raises:
        UserError: it cannot be created, or does not take images of this shape.
    """
    network = create_model(model, image_shape, classes).eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, *image_shape))
    except Exception as error:  # networks check little, and fail in many ways
        raise UserError(
            f"{where}: {model.name!r} with {model.arguments} cannot be run on images of "
            f"{'×'.join(map(str, image_shape))}: {told(error)}; let its arguments and "
            "data.image_size fit each other"
        ) from error


def _describe(distiller: Distiller) -> dict[str, Any]:
    return {
        "student_parameters": count_parameters(distiller.trainable_module),
        "auxiliary_parameters": count_parameters(distiller.auxiliary),
        "student_tokens": {k: str(v) for k, v in distiller.student_layouts.items()},
        "teacher_tokens": {k: str(v) for k, v in distiller.teacher_layouts.items()},
    }


def _first_batch(setting: Setting, splits: Splits) -> tuple[Tensor, Tensor]:
    """A few training images, augmented and mixed: (B, C, H, W), and targets (B, classes)."""
    data, recipe = setting.experiment.data, setting.recipe
    count = min(IMAGES, recipe.batch_size // recipe.shards)
    try:
        transform = train_transform(data, recipe)
        mixer = Mixer(recipe, len(splits.classes), setting.seed)
    except UserError as error:
        raise UserError(f"recipes.{setting.recipe_name}: {error}") from error
    try:
        images = splits.train.transformed(transform)
        drawn = [
            images[number % len(images), derive(setting.seed, "trial", number)]
            for number in range(count)
        ]
        pixels = torch.stack([image for image, _ in drawn])
        labels = torch.tensor([label for _, label in drawn])
        evaluated = splits.test.transformed(evaluation_transform(data, setting.pair.teacher.input))
        evaluated[0, None]
        pixels, targets = mixer(pixels, labels, step=0)
    except UserError:  # of a file, which says so itself
        raise
    except Exception as error:  # timm and torchvision raise many kinds
        raise UserError(
            f"recipes.{setting.recipe_name}: the first images cannot be augmented and mixed: "
            f"{told(error)}; correct its augmentation or mixing, or data.image_size"
        ) from error
    if setting.experiment.machine.channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return pixels, targets


def _step(
    setting: Setting,
    method: str,
    distiller: Distiller,
    steps_per_epoch: int,
    batch: tuple[Tensor, Tensor] | None,
) -> str | None:
    """Make a method's optimizer and schedule and, where there is a batch, take a step.

    Returns:
        How the step failed, if it did.

    Raises:
        UserError: names the recipe, and what is wrong.
    """
    recipe = setting.recipe
    try:
        member = Member(
            method,
            distiller,
            recipe,
            seed=setting.seed,
            epochs=setting.epochs,
            steps_per_epoch=steps_per_epoch,
            fused_optimizer=setting.experiment.machine.fused_optimizer,
        )
        if batch is not None:
            member.backward(*batch, step=0, shards=(0,), share=1.0, is_last=True)
            member.update(step=0)
    except UserError as error:
        raise UserError(f"recipes.{setting.recipe_name}: {error}") from error
    except Exception as error:  # a method or an optimizer may fail in any way
        return told(error)
    return None


def check_compiler(machine: Machine) -> None:
    """Compile a function of one line, where the machine asks for a compiler.

    Raises:
        UserError: torch does not know the backend, or it does not work here.
    """
    if machine.compile is None:
        return
    try:
        compiled = torch.compile(lambda values: values + 1, backend=machine.compile)
        if machine.device == "cpu":  # else it is another machine's GPU that it compiles for
            compiled(torch.zeros(2))
    except Exception as error:  # a backend may fail in any way
        known = ", ".join(torch._dynamo.list_backends())
        raise UserError(
            f"machine.compile {machine.compile!r} cannot be used: {told(error)}; torch.compile "
            f"knows {known}, or give null"
        ) from error
