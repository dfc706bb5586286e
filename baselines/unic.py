"""UNIC's feature loss: cosine and smooth L1."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_shape
from manifold.settings.section import NotNegative


class UNIC(Distiller):
    """CE(student, targets) + weight · mean over layer pairs of the feature loss of P(F_S) and F_T.

    P is a trained linear projector D_s → D_t for each pair.

    The authors distil several teachers at once, without labels, on class tokens too, from teachers'
    tokens that are standardised by running statistics, and drop teachers at random; of that the
    loss is here, of one teacher's patch tokens as they are.

    Source: Sariyildiz et al. 2024, arXiv 2408.05088, equations 1 and 2; naver/unic
    (``modeling/losses.py``: half cosine, half smooth L1).
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
        losses = [feature_loss(project(own), other) for project, (own, other) in pairs]
        return {
            **self.base_terms(student, teacher, targets),
            "features": self.weight * torch.stack(losses).mean(),
        }


def feature_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """½ · (1 − cos) + ½ · smooth L1 (mean over D), a mean over the tokens (B, N, D).

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        projected, teacher = at_least_float32(projected), at_least_float32(teacher)
        direction = 1 - F.cosine_similarity(projected, teacher, dim=-1).mean()
        return 0.5 * direction + 0.5 * F.smooth_l1_loss(projected, teacher)
