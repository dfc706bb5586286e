"""Top-1 accuracy, counted over every image once."""

import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from manifold.config import Experiment
from manifold.data import Images, evaluation_loader


def evaluate_split(
    experiment: Experiment, models: list[nn.Module], images: Images, what: str
) -> list[float]:
    """Return ``evaluate`` over one split, with the experiment's crop, batches and device."""
    machine = experiment.machine
    loader = evaluation_loader(
        images, experiment.data, machine.evaluation_batch_size, machine.workers
    )
    return evaluate(models, loader, torch.device(machine.device), what)


@torch.no_grad()
def evaluate(
    models: list[nn.Module], loader: DataLoader, device: torch.device, what: str
) -> list[float]:
    """Return the top-1 accuracy in percent of each model; images are decoded once for all.

    Args:
        models: networks that return (B, classes) logits; left in eval mode.
        loader: batches of normalised images (B, C, H, W) and class indices (B,).
        what: the progress bar's words.
    """
    evaluators = [ClassificationEvaluator(device=device) for _ in models]
    for model in models:
        model.eval()
    for images, labels in tqdm(
        loader, desc=what, unit="batch", mininterval=5, leave=False, disable=None
    ):
        images, labels = images.to(device), labels.to(device)
        for model, evaluator in zip(models, evaluators, strict=True):
            evaluator.update(model(images), labels)
    return [evaluator.compute()["top1"] for evaluator in evaluators]
