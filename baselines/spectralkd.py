"""SpectralKD: alignment of the tokens' spatial spectra."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.losses import at_least_float32
from manifold.settings import LayerMap
from manifold.settings.section import Count, NotNegative


class SpectralKD(Distiller):
    """Soft KD + weight · mean over layer pairs of the spectral loss.

    Of the layer map only the first and the last ``ends`` pairs are used (all where there are no
    more): with 1, the first and the last block of either net, as in the public ImageNet run of
    DeiT-Tiny from CaiT-S24 that reaches 76.98 under recipe B. The repository of the paper itself
    pairs eight blocks, and all four stages of Swin with weight 0.05. Where the tokens of a stage
    were merged, the spectrum is that of the merged map.

    Raises:
        UserError: a student layer that is wider than its teacher's; the published code has no rule
            for it.

    Source: Tian et al. 2024, arXiv 2412.19055; thy960112/Distillation-Dynamics (the run
    SpectralKD_First_1_Last_1) with weight 0.2, the default of that code and the command of
    thy960112/SpectralKD; its α = 0.9 is recipe B's.
    """

    uses_layers = True
    published_base = "soft_kd"

    def __init__(
        self, *networks, weight: NotNegative, ends: Count, layers: LayerMap | None = None, **common
    ):
        if layers is not None and 2 * ends < len(layers.student):
            layers = LayerMap(
                student=layers.student[:ends] + layers.student[-ends:],
                teacher=layers.teacher[:ends] + layers.teacher[-ends:],
            )
        super().__init__(*networks, layers=layers, **common)
        self.weight = weight
        self.grids = []
        for own, other in zip(self.layers.student, self.layers.teacher, strict=True):
            layout, teacher_layout = self.student_layouts[own], self.teacher_layouts[other]
            if layout.channels > teacher_layout.channels:
                raise UserError(
                    f"SpectralKD narrows the teacher to the student, but student block {own} has "
                    f"{layout.channels} channels and teacher block {other} only "
                    f"{teacher_layout.channels}"
                )
            self.grids.append((layout.height, layout.width))

    def terms(self, student, teacher, targets):
        pairs = zip(self.token_pairs(student, teacher), self.grids, strict=True)
        losses = [spectral_loss(own, other, grid) for (own, other), grid in pairs]
        return {
            **self.base_terms(student, teacher, targets),
            "spectrum": self.weight * torch.stack(losses).mean(),
        }


def spectral_loss(student: Tensor, teacher: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean squared difference of the 2-D Fourier transforms over the token grid, by channel.

    The transforms are orthonormal and real-to-complex: of height × width frequencies, the half
    with ⌊width/2⌋ + 1 columns. Real and imaginary parts count as entries, so the divisor is
    B · D_s · height · (⌊width/2⌋ + 1) · 2. A wider teacher is first narrowed to D_s channels by
    adaptive average pooling over its channels, in their order: there is no trained projector, and
    the loss depends on that order.

    Args:
        student: tokens (B, N, D_s).
        teacher: tokens (B, N, D_t) of the same images and positions, D_t ≥ D_s.
        grid: (height, width) of the N tokens, row by row.

    Raises:
        ValueError: the shapes do not fit each other or the grid.
    """
    height, width = grid
    if (
        student.ndim != 3
        or teacher.ndim != 3
        or student.shape[:2] != teacher.shape[:2]
        or student.shape[1] != height * width
        or student.shape[2] > teacher.shape[2]
    ):
        raise ValueError(
            f"spectra are of tokens (B, {height} · {width}, D), the teacher's at least as wide as "
            f"the student's: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = at_least_float32(student), at_least_float32(teacher)
        if student.shape[2] < teacher.shape[2]:
            teacher = F.adaptive_avg_pool1d(teacher, student.shape[2])
        # The transform is linear: that of the difference is the difference of the two.
        difference = (student - teacher).unflatten(1, grid)
        spectrum = torch.fft.rfft2(difference, dim=(1, 2), norm="ortho")
        return torch.view_as_real(spectrum).square().mean()
