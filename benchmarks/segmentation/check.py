"""What would stop the segmenters after their students were trained, found before.

The user's images and masks as a whole; then each protocol takes a step, and predicts an image, on
every network that is a backbone, with random weights.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.backbones import open_network
from benchmarks.scenes.compose import find_photographs
from benchmarks.segmentation import BACKGROUND, FROZEN, PROTOCOLS, Segmentation
from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.segmentation.data import Examples, examples_of
from benchmarks.segmentation.masks import Example, class_names, read_folder
from benchmarks.segmentation.measure import predictions
from benchmarks.segmentation.prepare import WHERE, tell
from benchmarks.segmentation.settings import FineTuningRecipe
from benchmarks.segmentation.training import Training, with_head
from manifold.errors import Faults, UserError
from manifold.image_files import mode_of
from manifold.settings import Model
from manifold.training.data import load_splits
from manifold.training.runs import CPU


def check(study: Segmentation) -> dict[str, Any]:
    """Read a user's data as a whole, then try both protocols.

    Returns:
        The images of each split, and the classes.

    Raises:
        UserError: says all that would stop the study later.
    """
    data = study.settings.data
    faults = Faults()
    if data.folder is not None:
        examples, notes = read_folder(data)
        tell(study, notes)
        sizes = {split: len(own) for split, own in examples.items()}
        classes = class_names(data)
    else:
        for split in study.splits:
            with faults.collected():
                find_photographs(getattr(data.scenes.photographs, split), WHERE)
        sizes = {split: getattr(data.scenes, split) for split in study.splits}
        classes = [BACKGROUND, *load_splits(study.experiment.data).classes]
    for protocol in PROTOCOLS:
        with faults.collected():
            _check_batch(study, protocol, sizes["train"])
    faults.raise_any()
    with tempfile.TemporaryDirectory() as folder:
        for protocol in PROTOCOLS:
            for method in _of_each_network(study):
                with faults.collected():
                    _try(study, protocol, method, len(classes), Path(folder))
    faults.raise_any()
    return {"splits": sizes, "classes": classes}


def _check_batch(study: Segmentation, protocol: str, images: int) -> None:
    """Refuse batches that no epoch fills: a last short one is left out.

    Raises:
        UserError: names both numbers.
    """
    batch = study.recipe_of(protocol).batch_size
    if batch > images:
        raise UserError(
            f"segmentation.{protocol.replace('-', '_')}.batch_size: {images} training image(s) do "
            f"not fill a batch of {batch}; lower it"
        )


def _of_each_network(study: Segmentation) -> list[str]:
    """A backbone of each network that is one: the first of those that have it."""
    networks: list[Model] = []
    chosen = []
    for method in study.backbones:
        model = SegmenterCell(study.experiment, FROZEN, method, study.seeds[0]).model
        if model not in networks:
            networks.append(model)
            chosen.append(method)
    return chosen


def _try(study: Segmentation, protocol: str, method: str, classes: int, folder: Path) -> None:
    """Take a step on two images of noise, and predict one, on a backbone of random weights.

    Raises:
        UserError: it cannot be made, or fails.
    """
    experiment, recipe = study.experiment.replaced(results=str(folder)), study.recipe_of(protocol)
    small = recipe.replaced(epochs=1, batch_size=2)
    key = protocol.replace("-", "_")
    settings = study.settings.replaced(**{key: small})
    experiment = experiment.replaced(
        segmentation=settings, machine=experiment.machine.replaced(workers=0)
    )
    cell = SegmenterCell(experiment, protocol, method, study.seeds[0])
    examples = _noise(cell, classes, folder)
    network = open_network(
        cell.model,
        experiment.data.image_shape,
        None,
        settings.data.channels,
        recipe.drop_path if isinstance(recipe, FineTuningRecipe) else 0.0,
    )
    try:
        frozen, trained = with_head(cell, network, classes, CPU)
        Training(cell, frozen, trained, examples, "check", CPU).run()
        for _ in predictions(cell, frozen, trained, examples):
            break
    except UserError as error:
        raise UserError(f"segmentation.{key}: {error}") from error
    except (RuntimeError, ValueError) as error:  # torch and timm fail in many ways
        raise UserError(
            f"segmentation.{key}: the student {cell.model.name} cannot segment images of "
            f"{'×'.join(map(str, settings.data.size))} with {recipe}: {error}"
        ) from error


def _noise(cell: SegmenterCell, classes: int, folder: Path) -> Examples:
    """Two images of noise, and masks of noise."""
    data = cell.study.settings.data
    generator = torch.Generator().manual_seed(0)
    width, height = data.size
    examples = []
    for number in range(2):
        image, mask = folder / f"{number}.png", folder / f"mask-{number}.png"
        pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).convert(mode_of(data.channels)).save(image)
        labels = torch.randint(classes, (height, width), generator=generator, dtype=torch.uint8)
        Image.fromarray(labels.numpy()).save(mask)
        examples.append(Example(image, mask, mask.name))
    return examples_of(cell.study, examples, classes, is_folder=False)
