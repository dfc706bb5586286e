"""What the networks of the pairs weigh, held to what is published of them."""

import contextlib
from collections.abc import Iterator
from typing import get_args

import pandas as pd
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from manifold.errors import UserError
from manifold.models import count_parameters, create_model
from manifold.settings import Experiment, Model, StudentKey, find

FLOPS_TOLERANCE = 0.02


@contextlib.contextmanager
def countable_attention() -> Iterator[None]:
    """Let networks that are made within attend by plain products, which the FLOP counter knows."""
    fused = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    try:
        yield
    finally:
        timm.layers.set_fused_attn(bool(fused))


def weigh(model: Model, experiment: Experiment) -> dict:
    """Parameters and multiply-accumulates of one image's forward pass, of which none is done."""
    shape = experiment.data.image_shape
    with torch.device("meta"):
        with countable_attention():
            network = create_model(model, shape, experiment.rehearsal.classes)
        network.eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *shape))
    return {
        "parameters": count_parameters(network),
        "gmacs": counter.get_total_flops() / 2e9,
    }


def networks(experiment: Experiment) -> pd.DataFrame:
    """Every network of the pairs, weighed, next to what timm publishes of it."""
    published = pd.read_csv(find(experiment.networks)).set_index("network")
    rows = {}
    for pair in experiment.pairs.values():
        students = {key.replace("_", " "): getattr(pair, key) for key in get_args(StudentKey)}
        for role, model in {**students, "teacher": pair.teacher.model}.items():
            if model is None or model.name in rows:
                continue
            name = model.name.partition(".")[0]
            own = not model.arguments and name in published.index
            known = published.loc[name].to_dict() if own else {}
            rows[model.name] = {"network": model.name, "role": role, **weigh(model, experiment)} | {
                f"published_{key}": known.get(key, float("nan")) for key in published.columns[:-1]
            }
    return pd.DataFrame(rows.values())


def check_published(weighed: pd.DataFrame) -> None:
    """Hold the networks to the published table.

    Raises:
        UserError: parameters differ in the published digits, or FLOPs by more than 2 %.
    """
    known = weighed[weighed["published_gmacs"].notna()]
    for _, row in known.iterrows():
        millions = round(row["parameters"] / 1e6, 2)
        if millions != row["published_parameters_millions"]:
            raise UserError(
                f"{row['network']} has {millions} M parameters, published are "
                f"{row['published_parameters_millions']} M: it is not the published network"
            )
        if abs(row["gmacs"] / row["published_gmacs"] - 1) > FLOPS_TOLERANCE:
            raise UserError(
                f"{row['network']} takes {row['gmacs']:.2f} GMAC an image, published are "
                f"{row['published_gmacs']}: it is not the published network"
            )
