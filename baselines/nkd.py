"""Normalised knowledge distillation (NKD)."""

import torch
from torch import Tensor

from baselines.logits import TargetAndOthers, check_logits, split_target
from manifold.losses import at_least_float32


class NKD(TargetAndOthers):
    """CE(student, targets) + target·L_target + non_target·L_non_target.

    ============  ======================================================================  =======
    term          with p, q the teacher's and student's softmax                           divisor
    ============  ======================================================================  =======
    L_target      −p_t · log q_t of the target class t, at temperature 1                  B
    L_non_target  −τ² · Σ p̂_i · log q̂_i over the others, each set normalised to sum 1,    B
                  at temperature τ
    ============  ======================================================================  =======

    Both are cross-entropies: a perfect student keeps the teacher's own entropy. The target class
    is the label; under mixup, the class with the larger share, as in the authors' code (the label
    term has the mixed labels).

    Source: Yang et al. 2023, arXiv 2303.13005; yzd-v/cls_KD (``NKDLoss``): weight 1 of L_target,
    and γ = ``non_target`` = 1, τ = 1 as in its four DeiT configurations, which have ViTKD beside it
    (γ = 1.5 for its ResNet-18 and MobileNet).
    """

    def losses(self, student, teacher, classes):
        return normalised_losses(student, teacher, classes, self.tau)


def normalised_losses(
    student: Tensor, teacher: Tensor, classes: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """Return the unweighted L_target and L_non_target.

    Args:
        student, teacher: logits (B, C).
        classes: the target classes (B,).
        tau: the temperature of the non-target classes.

    Raises:
        ValueError: the logits' shapes differ or are not (B, C).
    """
    check_logits(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = at_least_float32(student), at_least_float32(teacher)
        own_target, _ = split_target(student.log_softmax(dim=1), classes)
        target = -(split_target(teacher.softmax(dim=1), classes)[0] * own_target).mean()
        (_, own), (_, other) = (split_target(logits, classes) for logits in (student, teacher))
        products = (other / tau).softmax(dim=1) * (own / tau).log_softmax(dim=1)
        non_target = -(tau**2) * products.sum(dim=1).mean()
    return target, non_target
