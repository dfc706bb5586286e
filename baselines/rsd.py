"""Redundancy suppression distillation (RSD)."""

import torch
from torch import Tensor, nn

from baselines.vkd import pooled_tokens
from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_shape
from manifold.settings.section import Count, NotNegative

EPSILON = 1e-5  # beside a standard deviation, as in the authors' code


class RSD(Distiller):
    """CE(student, targets) + weight · RSD(P(z_S), z_T).

    P is Linear D_s → expansion · D_s, batch norm, GELU, Linear → D_t, both without bias. The z are
    means over the patch tokens of the map's last layer pair, after the networks' final norm, where
    the authors take the pooled features of a stage.

    Source: Zhang et al. 2025 (ICCV), arXiv 2507.21844; κ, the projector and the sum over all
    entries as in the authors' class RSD.
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(
        self, *networks, weight: NotNegative, kappa: NotNegative, expansion: Count, **common
    ):
        super().__init__(*networks, **common)
        self.weight = weight
        self.kappa = kappa
        own = self.student_layouts[self.layers.student[-1]].channels
        other = self.teacher_layouts[self.layers.teacher[-1]].channels
        self.auxiliary["projector"] = nn.Sequential(
            nn.Linear(own, expansion * own, bias=False),
            nn.BatchNorm1d(expansion * own),
            nn.GELU(),
            nn.Linear(expansion * own, other, bias=False),
        )

    def terms(self, student, teacher, targets):
        own, other = pooled_tokens(self, student, teacher)
        projected = self.auxiliary["projector"](own)
        return {
            **self.base_terms(student, teacher, targets),
            "redundancy": self.weight * redundancy_loss(projected, other, self.kappa),
        }


def redundancy_loss(projected: Tensor, teacher: Tensor, kappa: float) -> Tensor:
    """Σ_i (C_ii − 1)² + κ · Σ_{i≠j} C_ij², with C = Ẑ_Tᵀ Ẑ_S / B of features (B, D).

    Ẑ is z minus its mean over the batch, over its standard deviation (divisor B) plus 1e-5.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        own, other = (_standardised(at_least_float32(z)) for z in (projected, teacher))
        correlation = other.T @ own / len(own)
        off = correlation - torch.diag(correlation.diag())
        return (correlation.diag() - 1).square().sum() + kappa * off.square().sum()


def _standardised(features: Tensor) -> Tensor:
    spread = features.std(dim=0, unbiased=False)
    return (features - features.mean(dim=0)) / (spread + EPSILON)
