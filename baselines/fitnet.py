"""FitNet hints."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_shape
from manifold.settings.section import NotNegative


class FitNet(Distiller):
    """CE(student, targets) + weight · mean over layer pairs of MSE(P(F_S), F_T).

    P is a trained linear projector D_s → D_t for each pair; the MSE is a mean over B · N · D_t.

    Source: Romero et al. 2015, arXiv 1412.6550, equation 3, in one stage with the cross-entropy
    and weight 100 as in HobbitLong/RepDistiller (``hint``: γ = 1, α = 0, β = 100).
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(self, *networks, weight: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weight = weight
        self.auxiliary["projectors"] = nn.ModuleList(
            nn.Linear(self.student_layouts[own].channels, self.teacher_layouts[other].channels)
            for own, other in zip(self.layers.student, self.layers.teacher, strict=True)
        )

    def terms(self, student, teacher, targets):
        pairs = zip(self.auxiliary["projectors"], self.token_pairs(student, teacher), strict=True)
        losses = [hint_loss(project(own), other) for project, (own, other) in pairs]
        return {
            **self.base_terms(student, teacher, targets),
            "hint": self.weight * torch.stack(losses).mean(),
        }


def hint_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of tokens (B, N, D_t), a mean over B · N · D_t.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        return F.mse_loss(at_least_float32(projected), at_least_float32(teacher))
