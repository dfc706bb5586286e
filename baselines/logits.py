"""What the methods on logits share: checks, and the class that a label names."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.losses import check_targets
from manifold.settings.section import NotNegative, Positive


class TargetAndOthers(Distiller):
    """CE(student, targets) + target·L_target + non_target·L_non_target, for DKD and NKD."""

    def __init__(
        self, *networks, target: NotNegative, non_target: NotNegative, tau: Positive, **common
    ):
        super().__init__(*networks, **common)
        self.weights = {"target": target, "non_target": non_target}
        self.tau = tau

    def terms(self, student, teacher, targets):
        classes = target_classes(targets, student.logits)
        losses = self.losses(student.logits, teacher.logits, classes)
        weighted = zip(self.weights.items(), losses, strict=True)
        return {
            "cross_entropy": F.cross_entropy(student.logits, targets),
            **{name: weight * loss for (name, weight), loss in weighted},
        }

    def losses(self, student: Tensor, teacher: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unweighted L_target and L_non_target of logits (B, C) and classes (B,)."""
        raise NotImplementedError


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that are not (B, classes) of the same images and classes.

    Raises:
        ValueError: names both shapes.
    """
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"logits must be (B, classes), the same for both networks, got {shapes}")
    if student.shape[0] < 1 or student.shape[1] < 2:
        raise ValueError(f"logits must be of an image or more and of two classes or more: {shapes}")


def target_classes(targets: Tensor, logits: Tensor) -> Tensor:
    """Return the one class (B,) that each target names, for losses that single it out.

    Of probabilities that is the largest: smoothing does not move it, and under mixup it is the
    class of the image with the larger share; the first one where two have the same.

    Args:
        targets: (B, classes) probabilities, or (B,) class indices.
        logits: (B, classes).

    Raises:
        ValueError: the targets are not those of the logits; names both shapes.
    """
    check_targets(targets, logits)
    return targets.argmax(dim=1) if targets.ndim == 2 else targets


def split_target(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Split (B, C) logits into those of the target classes, (B,), and the others', (B, C − 1)."""
    named = classes.unsqueeze(1)
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= named)  # the positions that skip the target's
    return logits.gather(1, named).squeeze(1), logits.gather(1, others)
