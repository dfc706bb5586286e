"""Lift: features of the last block, by a projector that the student keeps."""

from baselines.spectralkd import spectral_loss
from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.settings.section import NotNegative
from manifold.students import LiftedTransformer
from manifold.tokens import after_final_norm


class Lift(Distiller):
    """Soft KD + weight · SpectralKD's loss of LayerNorm(W · F_S) and F_T, at the last blocks.

    W (D_t × D_s) and the LayerNorm are the student's own and stay at inference: its head is on the
    mean of the lifted patch tokens. So the student is another network, of more parameters, and
    ``soft_kd_lift`` is what it reaches without the feature term. F_T is taken before the teacher's
    final norm. At equal widths SpectralKD's loss pools no channels: it is a mean squared difference
    over half of the frequencies of the token grid.

    Raises:
        UserError: the student has no lift, or one to another width than the teacher's; or the
            layer map names more than the last blocks.

    Source: Tian et al. 2026, arXiv 2511.15572; weight 0.2 and alpha 0.9 as in
    thy960112/From-Per-Image-Low-Rank-to-Encoding-Mismatch (``training/lift``, its run of 77.53).
    """

    uses_layers = True
    published_base = "soft_kd"

    def __init__(self, student, teacher, *, weight: NotNegative, **common):
        super().__init__(student, teacher, **common)
        if not isinstance(student, LiftedTransformer):
            raise UserError(
                f"needs a student with a lift, and {type(student).__name__} has none: set "
                "lifted_student to a model such as deit_tiny_lift_patch16_224"
            )
        check_last_blocks(self, student.num_features)
        self.weight = weight

    def terms(self, student, teacher, targets):
        ((own, other),) = self.token_pairs(student, teacher)
        (block,) = self.layers.student
        layout = self.student_layouts[block]
        lifted = after_final_norm(self.trainable_module, block, own)
        return {
            **self.base_terms(student, teacher, targets),
            "spectrum": self.weight * spectral_loss(lifted, other, (layout.height, layout.width)),
        }


def check_last_blocks(distiller: Distiller, width: int) -> None:
    """Refuse a layer map of other blocks than the last, and a student of another width there.

    Args:
        width: the channels of the student's tokens that are compared with the teacher's.

    Raises:
        UserError: names the blocks, or both widths.
    """
    last = len(distiller.trainable_module.feature_info) - 1
    if distiller.layers.student != [last]:
        raise UserError(
            f"compares the student's last block, {last}, alone; its layer map names blocks "
            f"{distiller.layers.student}"
        )
    (layout,) = distiller.teacher_layouts.values()
    if width != layout.channels:
        raise UserError(
            f"the student's last tokens have {width} channels, and the teacher's "
            f"{layout.channels}; set the student's argument last_width to {layout.channels}"
        )
