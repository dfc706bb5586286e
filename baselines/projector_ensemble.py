"""Feature distillation through an ensemble of projectors (PEFD)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.vkd import pooled_tokens
from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_shape
from manifold.settings.section import Count, NotNegative


class ProjectorEnsemble(Distiller):
    """CE(student, targets) + weight · mean over the batch of 1 − cos(ẑ_S, z_T).

    ẑ_S = 1/K · Σ_k ReLU(P_k z_S), with K linear projectors D_s → D_t (with bias) that differ by
    their initialisation alone.

    The z are means over the patch tokens of the map's last layer pair, after the networks' final
    norm: the framework's nearest to the pooled features of the paper's convolutional networks.
    Those are never negative, and neither is ẑ_S; a transformer's features are, so the cosine cannot
    come near 1 here. The ReLU stays all the same: without it the ensemble is one linear projector.

    Source: Chen et al. 2022, arXiv 2210.15274; K = 3, weight 25 and no KL divergence as in
    chenyd7/PEFD (``--distill ours -a 0 -b 25``).
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(self, *networks, weight: NotNegative, projectors: Count, **common):
        super().__init__(*networks, **common)
        self.weight = weight
        own = self.student_layouts[self.layers.student[-1]]
        other = self.teacher_layouts[self.layers.teacher[-1]]
        self.auxiliary["projectors"] = nn.ModuleList(
            nn.Linear(own.channels, other.channels) for _ in range(projectors)
        )

    def terms(self, student, teacher, targets):
        own, other = pooled_tokens(self, student, teacher)
        projected = torch.stack([F.relu(project(own)) for project in self.auxiliary["projectors"]])
        return {
            **self.base_terms(student, teacher, targets),
            "direction": self.weight * direction_loss(projected.mean(dim=0), other),
        }


def direction_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of 1 − cos, of features (B, D_t) each.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        projected, teacher = (
            F.normalize(at_least_float32(features), dim=-1) for features in (projected, teacher)
        )
        return (1 - (projected * teacher).sum(dim=-1)).mean()
