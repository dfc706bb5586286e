"""No distillation: the student alone."""

import torch.nn.functional as F

from manifold.distiller import Distiller


class NoDistillation(Distiller):
    """CE(student, targets), mean over the batch. Under mixup the targets are the mixed labels."""

    uses_teacher = False
    reads_logits = False

    def terms(self, student, teacher, targets):
        return {"cross_entropy": F.cross_entropy(student.logits, targets)}
