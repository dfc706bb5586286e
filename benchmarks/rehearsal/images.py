"""The images of a rehearsal: a small ImageFolder of real-sized JPEGs."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from manifold.files import write_directory
from manifold.seeds import derive
from manifold.settings import Experiment
from manifold.training.progress import progress

JPEG_QUALITY = 90


def crops(size: list[int], generator: np.random.Generator) -> Iterator[Image.Image]:
    """Crops of scikit-learn's two photographs by turns, resized to (width, height), without end."""
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for photograph in itertools.cycle(photographs):
        share = generator.uniform(0.4, 0.9)
        side = int(photograph.width * share), int(photograph.height * share)
        left, top = (
            int(generator.uniform(0, whole - part))
            for whole, part in zip(photograph.size, side, strict=True)
        )
        crop = photograph.crop((left, top, left + side[0], top + side[1]))
        yield crop.resize(tuple(size))


def make(experiment: Experiment) -> None:
    """Write train/CLASS/*.jpg and val/CLASS/*.jpg: crops of scikit-learn's two photographs.

    One image a class and split, and as many of the first classes as the steps need.
    """
    study = experiment.studies["rehearsal"]
    small = study.settings
    generator = np.random.default_rng(derive(experiment.seeds[0], "rehearsal"))
    counts = {
        "train": max(small.classes, small.steps * small.batch_size),
        "val": max(small.classes, small.evaluation_images),
    }

    def write(partial: Path) -> None:
        for split, count in counts.items():
            images = crops(small.jpeg_size, generator)
            for number in progress(range(count), what=f"{split} images", unit="image"):
                path = partial / split / f"{number % small.classes:04d}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                next(images).save(path, quality=JPEG_QUALITY)

    write_directory(study.images, write)
