"""Hard-label distillation on a single head."""

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.logits import check_logits
from manifold.distiller import Distiller
from manifold.losses import at_least_float32


class HardKD(Distiller):
    """½·CE(student, targets) + ½·CE(student, argmax of the teacher's logits), on the same logits.

    Both are means over the batch. The difference from ``hard_kd_token`` is the token: one head
    learns both kinds of label. Under mixup the first half sees the mixed labels, and in the second
    the teacher decides on the mixed image; that decision is not smoothed.

    Source: Touvron et al. 2021, arXiv 2012.12877, equation 3; weights of facebookresearch/deit
    (``DistillationLoss``, hard, α = 0.5). That code takes students with a token alone: this is its
    loss of twice the same head.
    """

    def terms(self, student, teacher, targets):
        return {
            "cross_entropy": 0.5 * F.cross_entropy(student.logits, targets),
            "hard": 0.5 * hard_label_loss(student.logits, teacher.logits),
        }


def hard_label_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy (mean over B) with the class that the teacher's logits (B, C) decide for.

    Raises:
        ValueError: the shapes differ or are not (B, C).
    """
    check_logits(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        return F.cross_entropy(at_least_float32(student), teacher.argmax(dim=1))
