"""ViTKD: mimicking of shallow layers, generation of the deep one from masked tokens."""

import torch
from torch import Tensor, nn

from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.losses import at_least_float32, check_same_shape
from manifold.settings import LayerMap
from manifold.settings.section import NotNegative, PositiveShare
from manifold.tokens import Layout, after_final_norm


class ViTKD(Distiller):
    """CE(student, targets) + mimicking · Σ L_mimic + generation · L_generate.

    ==========  ==========================================================  =====================
    term        squared differences that are summed                         divisor
    ==========  ==========================================================  =====================
    L_mimic     P_i(F_S) − F_T, of the first two layer pairs of the map     B
    L_generate  G(F_S) − F_T at the masked tokens, of its last layer pair   B · mask_ratio
    ==========  ==========================================================  =====================

    The sums run over tokens and channels and are not divided by their number: as in the authors'
    code, whose weights are the same for every width. With few tokens both terms are small.

    P_i is a linear projector D_s → D_t. G projects the tokens, puts one learned token in the place
    of those that are masked, and passes the grid through 3×3 convolution, ReLU, 3×3 convolution.
    Equal widths have no projectors. Of each image all but int(N · (1 − mask_ratio)) tokens are
    masked, drawn anew at every step.

    The deep tokens are taken after the networks' final norm, as the code's backbone gives them.
    The published number of ViTKD (76.06 for DeiT-Tiny) is of this loss; the higher one adds NKD.

    Source: Yang et al. 2022, arXiv 2209.02432; weights 3e-5 and 3e-6, ratio 0.5, divisors, layers
    0, 1 and the last as in yzd-v/cls_KD (``ViTKDLoss``).
    """

    uses_layers = True
    published_base = "cross_entropy"

    def __init__(
        self,
        *networks,
        mimicking: NotNegative,
        generation: NotNegative,
        mask_ratio: PositiveShare,
        layers: LayerMap | None = None,
        **common,
    ):
        if layers is not None:
            layers = LayerMap(
                student=_shallow_and_deep(layers.student), teacher=_shallow_and_deep(layers.teacher)
            )
        super().__init__(*networks, layers=layers, **common)
        self.weights = {"mimicking": mimicking, "generation": generation}
        self.mask_ratio = mask_ratio
        layouts = [
            (self.student_layouts[own], self.teacher_layouts[other])
            for own, other in zip(self.layers.student, self.layers.teacher, strict=True)
        ]
        self.auxiliary["projectors"] = nn.ModuleList(
            _projector(own.channels, other.channels) for own, other in layouts[:2]
        )
        self.auxiliary["generator"] = Generator(layouts[2][0].channels, layouts[2][1])

    def terms(self, student, teacher, targets):
        *shallow, (own, other) = self.token_pairs(student, teacher)
        projected = zip(self.auxiliary["projectors"], shallow, strict=True)
        mimicking = [mimicking_loss(project(own), other) for project, (own, other) in projected]
        own = after_final_norm(self.trainable_module, self.layers.student[-1], own)
        other = after_final_norm(self.teacher.model, self.layers.teacher[-1], other)
        masked = draw_mask(*own.shape[:2], self.mask_ratio, self.sampling).to(own.device)
        generated = self.auxiliary["generator"](own, masked)
        return {
            **self.base_terms(student, teacher, targets),
            "mimicking": self.weights["mimicking"] * sum(mimicking),
            "generation": self.weights["generation"]
            * generation_loss(generated, other, masked, self.mask_ratio),
        }


class Generator(nn.Module):
    """Fills the masked tokens of a student's map with what a teacher's may be there.

    Args:
        channels: of the student's tokens.
        teacher: the layout of the tokens that are generated.
    """

    def __init__(self, channels: int, teacher: Layout):
        super().__init__()
        self.grid = (teacher.height, teacher.width)
        self.align = _projector(channels, teacher.channels)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, teacher.channels))
        self.block = nn.Sequential(
            nn.Conv2d(teacher.channels, teacher.channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher.channels, teacher.channels, kernel_size=3, padding=1),
        )

    def forward(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """(B, N, D_s) tokens and the (B, N) masked ones → (B, N, D_t)."""
        visible = torch.where(masked.unsqueeze(-1), self.mask_token, self.align(tokens))
        return self.block(visible.mT.unflatten(2, self.grid)).flatten(2).mT


def draw_mask(images: int, tokens: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Draw the masked tokens of each image, (B, N) bool: all but int(N · (1 − mask_ratio))."""
    noise = torch.rand(images, tokens, generator=generator)
    ranks = noise.argsort(dim=1).argsort(dim=1)
    return ranks >= int(tokens * (1 - mask_ratio))


def mimicking_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """‖P(F_S) − F_T‖²_F / B, of (B, N, D_t) each.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(projected, teacher)
    with torch.autocast(projected.device.type, enabled=False):
        difference = at_least_float32(projected) - at_least_float32(teacher)
        return difference.square().sum() / len(teacher)


def generation_loss(
    generated: Tensor, teacher: Tensor, masked: Tensor, mask_ratio: float
) -> Tensor:
    """‖(G(F_S) − F_T) at the masked tokens‖²_F / (B · mask_ratio), of (B, N, D_t) each.

    Args:
        masked: (B, N) bool.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(generated, teacher)
    if masked.shape != teacher.shape[:2]:
        raise ValueError(
            f"the mask must be (B, N): mask {tuple(masked.shape)}, teacher {tuple(teacher.shape)}"
        )
    with torch.autocast(generated.device.type, enabled=False):
        difference = at_least_float32(generated) - at_least_float32(teacher)
        squares = (difference * masked.unsqueeze(-1)).square()
        return squares.sum() / (len(teacher) * mask_ratio)


def _projector(own: int, other: int) -> nn.Module:
    return nn.Identity() if own == other else nn.Linear(own, other)


def _shallow_and_deep(blocks: list[int]) -> list[int]:
    if len(blocks) < 3:
        raise UserError(
            "ViTKD compares two shallow layers and a deep one: it needs a layer map of at least "
            f"three pairs, got blocks {blocks}"
        )
    return [*blocks[:2], blocks[-1]]
