"""Fetch timm's pretrained weights of a pair's teacher and keep them as safetensors.

``python -m manifold fetch-teacher --config scale=imagenet --pair deit_tiny-cait_s24`` writes
``teachers/PAIR/pretrained.safetensors`` and, beside it, ``pretrained.json``: where they came from,
what they were trained to see, and the SHA-256.
"""

import json

import timm
from torch import nn

from manifold.errors import UserError
from manifold.files import sha256, write_text
from manifold.models import save_weights
from manifold.settings import PRETRAINED, Experiment, Model
from manifold.training import command

KEPT = (
    *("architecture", "tag", "hf_hub_id", "url", "license", "num_classes", "input_size"),
    *("mean", "std", "crop_pct", "interpolation"),
)


def fetch(experiment: Experiment, pair: str) -> dict:
    """Download, check and write the weights; return what pretrained.json holds.

    Raises:
        UserError: the pair's teacher is not one of timm's, timm has no such weights or cannot be
            reached, or they expect another normalisation than the configuration says.
    """
    teacher = experiment.pairs[pair].teacher
    if teacher.weights != PRETRAINED:
        raise UserError(
            f"pairs.{pair}.teacher.weights is {teacher.weights!r}; only {PRETRAINED!r} is fetched"
        )
    network, source = pretrained_network(teacher.model)
    seen_by = teacher.input or experiment.data
    for key in ("mean", "std"):
        if list(source[key]) != getattr(seen_by, key):
            raise UserError(
                f"pairs.{pair}.teacher: {teacher.model.name} was trained with {key} "
                f"{list(source[key])}, and would see {getattr(seen_by, key)}; set "
                f"pairs.{pair}.teacher.input.{key}"
            )
    path = experiment.teacher_weights(pair)
    save_weights(network, path)
    record = {**source, "timm": timm.__version__, "sha256": sha256(path)}
    write_text(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    return record


def pretrained_network(model: Model) -> tuple[nn.Module, dict]:
    """Download timm's weights of a model's name; return the network and what timm says of it.

    Raises:
        UserError: timm has none, or they cannot be reached.
    """
    try:
        network = timm.create_model(model.name, pretrained=True, **model.arguments)
    except Exception as error:  # the hub and the network fail in many ways
        raise UserError(
            f"timm's weights of {model.name!r} cannot be had ({error}); fetch them on a machine "
            "with a network, and give the file's path as the weights"
        ) from error
    return network, {key: network.pretrained_cfg.get(key) for key in KEPT}


def main() -> None:
    parser = command.parser("manifold fetch-teacher", __doc__)
    parser.add_argument("--pair", required=True)
    options = parser.parse_args()
    fetch(command.experiment(options), options.pair)
