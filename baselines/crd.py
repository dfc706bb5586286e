"""Contrastive representation distillation (CRD), within the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifold.distiller import Distiller
from manifold.losses import at_least_float32
from manifold.settings.section import Count, NotNegative, Positive


class ContrastiveRepresentation(Distiller):
    """CE(student, targets) + weight · mean over layer pairs of the contrastive loss.

    Both nets' mean patch tokens are projected to ``dimensions`` by trained linear maps. The
    negatives are the other images of the relational batch, another augmentation of the same image
    among them. The published code draws 16,384 from a memory of the whole training set instead, of
    other classes than the image's, and scores them by noise contrastive estimation; InfoNCE is the
    objective that the paper compares it with. No label is asked for: under mixup an image has no
    one class.

    Source: Tian et al. 2020, arXiv 1910.10699; weight 0.8, 128 dimensions, temperature 0.07 and
    the sum over both directions as in HobbitLong/RepDistiller (``crd``: γ = 1, α = 0, β = 0.8).
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(self, *networks, weight: NotNegative, dimensions: Count, tau: Positive, **common):
        super().__init__(*networks, **common)
        self.weight = weight
        self.tau = tau
        for side, layouts, layers in (
            ("student", self.student_layouts, self.layers.student),
            ("teacher", self.teacher_layouts, self.layers.teacher),
        ):
            self.auxiliary[side] = nn.ModuleList(
                nn.Linear(layouts[layer].channels, dimensions) for layer in layers
            )

    def terms(self, student, teacher, targets):
        losses = [
            contrastive_loss(
                project_own(own.mean(dim=1)), project_other(other.mean(dim=1)), self.tau
            )
            for project_own, project_other, (own, other) in zip(
                self.auxiliary["student"],
                self.auxiliary["teacher"],
                self.token_pairs(student, teacher),
                strict=True,
            )
        ]
        return {
            **self.base_terms(student, teacher, targets),
            "contrast": self.weight * torch.stack(losses).mean(),
        }


def contrastive_loss(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """InfoNCE in both directions: CE(Z_S Z_Tᵀ / τ, own image) + CE(Z_T Z_Sᵀ / τ, own image).

    The rows of Z are L2-normalised; each cross-entropy is over the B images of the batch and a mean
    over B. It is 2·log B for vectors that tell nothing and never zero for B > 1.

    Args:
        student: projected vectors (B, E).
        teacher: projected vectors (B, E) of the same images.
        tau: the temperature τ.

    Raises:
        ValueError: the shapes differ.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            "the contrast is between vectors (B, E) of the same images in the same space: "
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        student = F.normalize(at_least_float32(student), dim=-1)
        teacher = F.normalize(at_least_float32(teacher), dim=-1)
        scores = student @ teacher.T / tau
        own_image = torch.arange(len(scores), device=scores.device)
        return F.cross_entropy(scores, own_image) + F.cross_entropy(scores.T, own_image)
