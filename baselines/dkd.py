"""Decoupled knowledge distillation (DKD)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.logits import TargetAndOthers, check_logits, split_target
from manifold.losses import at_least_float32


class DKD(TargetAndOthers):
    """CE(student, targets) + target·TCKD + non_target·NCKD, at the method's own temperature τ.

    ========  =============================================================  =======
    term      what is compared, times τ²                                     divisor
    ========  =============================================================  =======
    TCKD      KL(teacher ‖ student) of (p, 1 − p), p of the target class     B
    NCKD      KL(teacher ‖ student) of the other classes, as a distribution  B
    ========  =============================================================  =======

    The target class is the label; under mixup, the class with the larger share (the cross-entropy
    has the mixed labels).

    Source: Zhao et al. 2022, arXiv 2203.08679, equation 7 (the paper's α and β are ``target`` and
    ``non_target``); megvii-research/mdistiller. Its ImageNet configurations have α = 1, τ = 1, and
    β = 0.5 (ResNet-34 → ResNet-18) or 2 (ResNet-50 → MobileNet). 2 is taken: that pair is of two
    architectures, and 2 is the default of Hao840/OFAKD, which compares DKD for transformer
    students and has the same rule under mixup. The published warm-up multiplies both terms by
    min(epoch / WARMUP, 1) with epochs counted from 1; on ImageNet WARMUP is 1, so that it changes
    nothing, and there is none here.
    """

    def losses(self, student, teacher, classes):
        return decoupled_losses(student, teacher, classes, self.tau)


def decoupled_losses(
    student: Tensor, teacher: Tensor, classes: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """Return the unweighted TCKD and NCKD.

    Probabilities stay logarithms throughout, so that a sure teacher or student gives no log 0.

    Args:
        student, teacher: logits (B, C).
        classes: the target classes (B,).
        tau: the temperature.

    Raises:
        ValueError: the logits' shapes differ or are not (B, C).
    """
    check_logits(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        own, other = (
            _log_parts(at_least_float32(logits) / tau, classes) for logits in (student, teacher)
        )
        target, non_target = (
            tau**2 * F.kl_div(mine, its, reduction="batchmean", log_target=True)
            for mine, its in zip(own, other, strict=True)
        )
    return target, non_target


def _log_parts(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of (p, 1 − p), (B, 2), and of the other classes' distribution, (B, C − 1)."""
    target, others = split_target(logits, classes)
    log_odds = target - others.logsumexp(dim=1)
    pair = torch.stack([F.logsigmoid(log_odds), F.logsigmoid(-log_odds)], dim=1)
    return pair, others.log_softmax(dim=1)
