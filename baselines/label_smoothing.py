"""The control for label smoothing: no distillation, with a smoothing of the method's own."""

import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_targets
from manifold.settings.section import Rate


class LabelSmoothing(Distiller):
    """CE(student, ỹ), mean over the batch: the targets, smoothed by ``smoothing`` and not by ε.

    A given target is (1 − ε)·y + ε/C, with the recipe's ε and y the label, or the mixture of two:

        y = (target − ε/C) / (1 − ε)  and  ỹ = (1 − smoothing)·y + smoothing / C;

    class indices and rows with a smaller entry, which nobody smoothed by ε, are so for a smaller ε,
    down to 0. With ``smoothing`` = ε this is ``none``.

    Why a control looks like this: soft labels regularise as uniform smoothing does (Yuan et al.
    2020, arXiv 1909.11723), so a gain of distillation may be a gain of smoothing. But every recipe
    here smooths every method's targets, ``none`` included: ``none`` *is* the student with label
    smoothing, and what is missing is the one without. Hence ``smoothing`` = 0 in
    config/methods.yaml: ``none`` minus this arm is what smoothing gives, to be held against what
    distillation gives over ``none``. Smoothing further would ask instead whether more of it helps,
    at a strength that somebody has to choose; removal has nothing to choose.

    Raises:
        UserError: ``smoothing`` outside of [0, 1).

    Source: Szegedy et al. 2016, arXiv 1512.00567, section 7 (label smoothing).
    """

    uses_teacher = False
    reads_logits = False

    def __init__(self, *networks, smoothing: Rate, **common):
        super().__init__(*networks, **common)
        self.smoothing = smoothing

    def terms(self, student, teacher, targets):
        check_targets(targets, student.logits)
        labels = unsmoothed(targets, student.logits, self.label_smoothing)
        smoothed = (1 - self.smoothing) * labels + self.smoothing / labels.shape[1]
        return {"cross_entropy": F.cross_entropy(student.logits, smoothed)}


def unsmoothed(targets: Tensor, logits: Tensor, smoothing: float) -> Tensor:
    """Return the labels (B, C) behind the targets of logits (B, C), as probabilities.

    Args:
        targets: (B, C) probabilities, or (B,) class indices, whose rows are one-hot.
        smoothing: of the probabilities.
    """
    classes = logits.shape[1]
    if targets.ndim == 1:
        return F.one_hot(targets, classes).to(at_least_float32(logits).dtype)
    labels = at_least_float32(targets)
    share = labels.amin(dim=1, keepdim=True).clamp(max=smoothing / classes)
    return (labels - share) / (1 - classes * share)
