"""Top-1 accuracy, counted over every image once."""

import torch
from timm.data.loader import PrefetchLoader
from timm.task.evaluator import ClassificationEvaluator
from torch import nn

from manifold.ranks import ALONE, Ranks
from manifold.settings import Experiment, TeacherInput
from manifold.training.data import Images, evaluation_loader
from manifold.training.progress import progress


def evaluate_split(
    experiment: Experiment,
    models: list[nn.Module],
    images: Images,
    what: str,
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
    seen_by: TeacherInput | None = None,
) -> list[float]:
    """Return ``evaluate`` over one split, shared out over the ranks.

    Args:
        seen_by: crop and normalisation of outside weights; by default those of the data section.
    """
    machine = experiment.machine
    loader = evaluation_loader(
        images,
        experiment.data,
        machine.evaluation_batch_size,
        machine.workers,
        device=device,
        ranks=ranks,
        seen_by=seen_by,
    )
    return evaluate(models, loader, device, what, ranks)


@torch.no_grad()
def evaluate(
    models: list[nn.Module],
    loader: PrefetchLoader,
    device: torch.device,
    what: str,
    ranks: Ranks = ALONE,
) -> list[float]:
    """Return the top-1 accuracy in percent of each model; images are decoded once for all.

    Args:
        models: networks that return (B, classes) logits; left in eval mode.
        loader: this rank's batches of normalised images (B, C, H, W) and class indices (B,).
        what: the progress bar's words.
        ranks: the processes whose counts are added up.
    """
    evaluators = [ClassificationEvaluator(device=device) for _ in models]
    for model in models:
        model.eval()
    for images, labels in progress(loader, what=what, unit="batch", leave=False, disable=None):
        for model, evaluator in zip(models, evaluators, strict=True):
            evaluator.update(model(images), labels)
    return [evaluator.compute(distributed=ranks.count > 1)["top1"] for evaluator in evaluators]
