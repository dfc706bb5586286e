"""Distillation from a stronger teacher (DIST), on plain or standardised logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.logits import check_logits
from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.losses import at_least_float32
from manifold.settings.section import NotNegative, Positive


class DIST(Distiller):
    """CE(student, targets) + inter_class·L_inter + intra_class·L_intra.

    ========  =============================================================  =======
    term      τ² · (1 − Pearson correlation of both networks' softmax at τ)  divisor
    ========  =============================================================  =======
    L_inter   over the classes, for each image                               B
    L_intra   over the images of the relational batch, for each class        C
    ========  =============================================================  =======

    Labels enter the cross-entropy alone. A correlation is x·y / (‖x‖·‖y‖ + 1e-8) of the centred
    probabilities, as in the authors' code. With 1000 classes that matters: for a class whose
    probabilities are small throughout the batch, the 1e-8 outweighs the norms, and the class adds
    little but a constant to L_intra. At a student whose probabilities are all equal the 1e-8 is
    the whole divisor, and the gradient overflows float16: a head must not start at zero.

    ``standardise`` turns each image's logits into Z-scores over its classes first, for both
    networks: (z − mean) / (standard deviation + 1e-7), with divisor C − 1 under the root.

    Source: Huang et al. 2022, arXiv 2205.10536; hunto/DIST_KD: β = γ = 1 under a loss weight of 2,
    and τ = 1 on ImageNet. Standardisation: Sun et al. 2024, arXiv 2403.01427, algorithms 1 and 2;
    sunshangquan/logit-standardization-KD. They standardised KD, CTKD, DKD and MLKD but never
    DIST, so no weights for it are published: those of DIST stay, for a comparison in which
    nothing else changes. Their base temperature 2 and their factor 9 scale a KL divergence.
    """

    def __init__(
        self,
        *networks,
        inter_class: NotNegative,
        intra_class: NotNegative,
        tau: Positive,
        standardise: bool,
        **common,
    ):
        if not isinstance(standardise, bool):
            raise UserError(f"'standardise' must be true or false, got {standardise!r}")
        super().__init__(*networks, **common)
        self.weights = {"inter_class": inter_class, "intra_class": intra_class}
        self.tau = tau
        self.standardise = standardise

    def terms(self, student, teacher, targets):
        logits = student.logits, teacher.logits
        if self.standardise:
            logits = map(standardised, logits)
        weighted = zip(self.weights.items(), correlation_losses(*logits, self.tau), strict=True)
        return {
            "cross_entropy": F.cross_entropy(student.logits, targets),
            **{name: weight * loss for (name, weight), loss in weighted},
        }


def correlation_losses(student: Tensor, teacher: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return the unweighted L_inter and L_intra.

    Args:
        student, teacher: logits (B, C).
        tau: the temperature.

    Raises:
        ValueError: the logits' shapes differ or are not (B, C).
    """
    check_logits(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        own, other = (
            (at_least_float32(logits) / tau).softmax(dim=1) for logits in (student, teacher)
        )
        inter = tau**2 * (1 - _correlations(own, other).mean())
        intra = tau**2 * (1 - _correlations(own.T, other.T).mean())
    return inter, intra


def standardised(logits: Tensor) -> Tensor:
    """Return the Z-scores of each row of (B, C) logits; zeros for a row of equal logits."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        deviation = logits.std(dim=1, keepdim=True)
        return (logits - logits.mean(dim=1, keepdim=True)) / (deviation + 1e-7)


def _correlations(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of each two rows."""
    first, second = (rows - rows.mean(dim=1, keepdim=True) for rows in (first, second))
    norms = first.norm(dim=1) * second.norm(dim=1)
    return (first * second).sum(dim=1) / (norms + 1e-8)
