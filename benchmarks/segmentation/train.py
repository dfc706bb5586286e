"""Train a backbone's segmenters by both protocols, and measure them.

Below ``segmentation/PAIR/RECIPE/EPOCHS/PROTOCOL/METHOD/seed-SEED`` stand the weights (of the frozen
protocol the head's), the predictions on the images that are evaluated on as PNG masks of the data's
own indices, the losses, and run.json. A training that was interrupted goes on from its last
checkpoint.
"""

from typing import Any

import torch

from benchmarks.evidence.kept import is_kept, keep
from benchmarks.segmentation import PROTOCOLS, SEGMENTER_FILES
from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.segmentation.data import open_split, read_found
from benchmarks.segmentation.measure import measure
from benchmarks.segmentation.training import Training, build
from manifold import ranks
from manifold.errors import telling_of_a_full_disk
from manifold.files import csv_text, sha256, write_atomic, write_text
from manifold.models import count_parameters, save_weights
from manifold.settings import Experiment, fingerprint, to_plain
from manifold.training.alone import alone_on
from manifold.training.description import describe_environment
from manifold.training.records import write_run


def train(cell: SegmenterCell, found: dict[str, Any], device: torch.device) -> None:
    """Train a segmenter, or go on with it, and write its files; nothing where they are to stay.

    Args:
        found: as ``read_found`` gives it.

    Raises:
        UserError: the student or the data are missing or damaged; the loss is not finite.
    """
    identity = cell.identity(found["fingerprint"])
    digest, directory = fingerprint(identity), cell.directory
    if is_kept(cell.experiment, __name__, directory, SEGMENTER_FILES, digest):
        keep(directory, SEGMENTER_FILES)
        return
    classes = len(found["classes"])
    frozen, trained = build(cell, classes, device)
    examples, evaluated = (open_split(cell.study, found, split) for split in cell.study.splits)
    training = Training(cell, frozen, trained, examples, digest, device)
    training.resume()
    training.run()
    result: dict[str, Any] = {}
    weights, archive, metrics, run = (directory / name for name in SEGMENTER_FILES)
    save_weights(trained, weights)
    write_atomic(
        archive,
        lambda path: result.update(measure(cell, frozen, trained, evaluated, classes, path)),
    )
    write_text(metrics, csv_text(training.rows))
    backbone = trained.network if frozen is None else frozen
    record = {
        "fingerprint": digest,
        "configuration": identity,
        "source_hash": training.source_hash,
        "data_digest": found["fingerprint"],
        "protocol": cell.protocol,
        "method": cell.method,
        "seed": cell.seed,
        "result": result,
        "epochs": training.recipe.epochs,
        "images_seen": training.step * training.recipe.batch_size,
        "splits": dict(zip(cell.study.splits, (len(examples), len(evaluated)), strict=True)),
        "classes": found["classes"],
        "parameters": count_parameters(trained) + (count_parameters(frozen) if frozen else 0),
        "backbone_parameters": count_parameters(backbone),
        "trained_parameters": count_parameters(trained),
        "wall_seconds": training.wall_seconds,
        "environment": describe_environment(device)
        | {"machine": to_plain(cell.experiment.machine)},
        "files": {path.name: sha256(path) for path in (weights, archive, metrics)},
    }
    write_run(run, record)
    for path in (cell.state, cell.state.with_suffix(".npy")):
        path.unlink(missing_ok=True)


def run(experiment: Experiment, method: str, seed: int) -> None:
    """Train the segmenters on the backbone of a method, or a control, and a seed.

    Raises:
        UserError: there is no such backbone; or what ``train`` raises.
    """
    study = experiment.studies["segmentation"]
    experiment.check_known("method", method, study.backbones)
    _, device = ranks.start(experiment.machine.device)
    found = read_found(study)
    for protocol in PROTOCOLS:
        cell = SegmenterCell(experiment, protocol, method, seed)
        with alone_on([cell.directory]), telling_of_a_full_disk(cell.state):
            train(cell, found, device)
