"""DeiT's hard-label distillation through a distillation token."""

import torch.nn.functional as F

from baselines.hard_kd import hard_label_loss
from manifold.distiller import Distiller
from manifold.errors import UserError


class HardKDToken(Distiller):
    """½·CE(class head, targets) + ½·CE(distillation head, argmax of the teacher's logits).

    Both are means over the batch. Under mixup the class head sees the mixed labels and the teacher
    decides on the mixed image. Evaluation averages both heads' logits, as timm's model does.

    Raises:
        UserError: the student has no distillation token.

    Source: Touvron et al. 2021, arXiv 2012.12877, equation 3, through the token of section 4.
    """

    def __init__(self, student, teacher, **common):
        if not hasattr(student, "set_distilled_training"):
            raise UserError(
                f"hard-label distillation needs a distillation token, and {type(student).__name__} "
                "has none: set distilled_student to a timm model such as "
                "deit_tiny_distilled_patch16_224"
            )
        super().__init__(student, teacher, **common)
        student.set_distilled_training(True)

    def terms(self, student, teacher, targets):
        class_logits, token_logits = student.heads
        return {
            "cross_entropy": 0.5 * F.cross_entropy(class_logits, targets),
            "hard": 0.5 * hard_label_loss(token_logits, teacher.logits),
        }
