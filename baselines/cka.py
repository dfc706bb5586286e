"""Centered kernel alignment (CKA) as a distillation loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.losses import at_least_float32, check_same_batch
from manifold.settings.section import NotNegative


class CenteredKernelAlignment(Distiller):
    """CE(student, targets) + weight · mean over layer pairs of 1 − linear CKA.

    The examples are the images of the relational batch, each with its tokens flattened, as
    Kornblith et al. flatten the maps of CNNs. So few examples of so many features bias CKA
    upwards, and the loss towards zero; it still is zero only where the centered Gram matrices are
    proportional.

    Source: Kornblith et al. 2019, arXiv 1905.00414 (linear CKA); Saha et al. 2022, "Distilling
    Representational Similarity using Centered Kernel Alignment" (as a distillation loss). Weight 15
    is the default of the CKA losses in Klayand/PCKA (Zhou et al. 2024, arXiv 2401.11824), which
    minimise −CKA.
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(self, *networks, weight: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weight = weight

    def terms(self, student, teacher, targets):
        losses = [alignment_loss(*pair) for pair in self.token_pairs(student, teacher)]
        return {
            **self.base_terms(student, teacher, targets),
            "alignment": self.weight * torch.stack(losses).mean(),
        }


def alignment_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − ⟨K, L⟩ / (‖K‖ ‖L‖): K and L (B, B) are Gram matrices of features centered over the batch.

    Computed as ½ ‖K/‖K‖ − L/‖L‖‖², which is the same and does not cancel where K and L agree. All
    products and norms are Frobenius's: no divisor is left.

    Args:
        student: features (B, …), flattened to (B, P_s).
        teacher: features (B, …) of the same images, flattened to (B, P_t).

    Raises:
        ValueError: the batches differ.
    """
    check_same_batch(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        return (_centered_gram(student) - _centered_gram(teacher)).square().sum() / 2


def _centered_gram(features: Tensor) -> Tensor:
    rows = at_least_float32(features).flatten(1)
    rows = rows - rows.mean(dim=0)
    return F.normalize((rows @ rows.T).flatten(), dim=0)
