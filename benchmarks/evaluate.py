"""Measure any checkpoint of any timm network on a scale's test split.

``python -m benchmarks evaluate --config scale=imagenet data='{folder: /data/imagenet}' \\
    --model deit_tiny_patch16_224 --weights manifold_kd_deit_76.4.pth``

``--weights`` is a .safetensors file, a checkpoint of torch.save (of this suite, of the reference
code, of DeiT), or ``pretrained`` for timm's. Crop, interpolation and normalisation are those that
the weights were trained for: of the run.json beside them, or else of timm's configuration of the
name; ``--crop`` overrides the crop. The result is printed as JSON.
"""

import json
import tempfile
from pathlib import Path
from typing import Literal

import timm

from manifold import ranks
from manifold.errors import UserError
from manifold.files import sha256
from manifold.models import count_parameters, create_model, load_weights, save_weights
from manifold.settings import PRETRAINED, Experiment, Model, TeacherInput, read_yaml_text
from manifold.training import command
from manifold.training.data import load_splits
from manifold.training.evaluation import evaluate_split
from manifold.training.fetch import pretrained_network
from manifold.training.records import check_weights, read_run


def seen_by(experiment: Experiment, model: Model, weights: str) -> tuple[TeacherInput, str]:
    """How the weights were trained to see an image, and where that is known from."""
    record = Path(weights).with_name("run.json")
    if weights != PRETRAINED and record.is_file():
        data = read_run(record)["configuration"]["data"]
        keys = ("mean", "std", "crop", "interpolation")
        return TeacherInput(**{key: data[key] for key in keys}), str(record)
    known = timm.get_pretrained_cfg(model.name)
    if known is None:
        raise UserError(
            f"timm knows no evaluation of {model.name!r}, and there is no run.json beside the "
            "weights; nothing says which crop they were trained for"
        )
    mean, std = list(known.mean), list(known.std)
    if len(mean) != experiment.data.channels:
        raise UserError(
            f"timm evaluates {model.name!r} on {len(mean)} channels, and data.channels is "
            f"{experiment.data.channels}; put a run.json beside the weights, or set data.channels"
        )
    found = {"mean": mean, "std": std, "crop": known.crop_pct}
    return TeacherInput(**found, interpolation=known.interpolation), "timm's configuration"


def evaluate_checkpoint(
    experiment: Experiment,
    model: Model,
    weights: str,
    crop: float | None = None,
    split: Literal["test", "validation"] = "test",
) -> dict:
    """Return the top-1 (%) on a split, and all that it depends on.

    Raises:
        UserError: no such data, network or weights, or weights of another network or class count.
    """
    how, source = seen_by(experiment, model, weights)
    if crop is not None:
        how, source = how.replaced(crop=crop), "--crop"
    processes, device = ranks.start(experiment.machine.device)
    splits = load_splits(experiment.data)
    data = experiment.data
    shape = data.image_shape
    network = create_model(model, shape, len(splits.classes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(weights)
        if weights == PRETRAINED:
            path = Path(folder) / "pretrained.safetensors"
            save_weights(pretrained_network(model)[0], path)
        check_weights(path)
        load_weights(network, path, f"the network {model.name!r}")
        digest = sha256(path)
    images = getattr(splits, split)
    (top1,) = evaluate_split(
        experiment,
        [network.to(device)],
        images,
        model.name,
        device=device,
        ranks=processes,
        seen_by=how,
    )
    return {
        "model": model.name,
        "weights": weights,
        "sha256": digest,
        "parameters": count_parameters(network),
        "top1": top1,
        "images": len(images),
        "image_size": data.image_size,
        **vars(how),
        "evaluated_as": source,
    }


def main() -> None:
    parser = command.parser("benchmarks evaluate", __doc__)
    parser.add_argument("--model", required=True, help="a timm name")
    parser.add_argument("--arguments", default="{}", help="of the timm model, as YAML")
    parser.add_argument("--weights", required=True, help=f"a file, or {PRETRAINED!r}")
    parser.add_argument("--crop", type=float)
    options = parser.parse_args()
    model = Model(name=options.model, arguments=read_yaml_text(options.arguments, "--arguments"))
    found = evaluate_checkpoint(command.experiment(options), model, options.weights, options.crop)
    print(json.dumps(found, indent=2))
