"""Students of other widths than timm's, which timm's registry has once this module is imported.

A DeiT whose tokens are widened at its end: by a projector that stays (Lift), or by a wider last
block (WideLast). ``timm.create_model`` makes them like any other network, so that a pair names them
like any other student; ``last_width`` is the teacher's.

Source: Tian et al. 2026, arXiv 2511.15572; architectures and initialisation as in
thy960112/From-Per-Image-Low-Rank-to-Encoding-Mismatch (``training/lift``, ``training/widelast``).
"""

from collections.abc import Callable
from copy import deepcopy

from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

DEIT_TINY = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}


class LiftedTransformer(VisionTransformer):
    """A ViT whose last tokens are lifted to ``last_width`` channels before they are pooled.

    In the place of the final norm stand a linear map D → ``last_width`` without bias and a
    LayerNorm; the head is on the mean of the patch tokens. Map and head are initialised as torch
    does. A detector takes the maps before the final norm, and so without the lift.

    Args:
        last_width: the channels after the lift.
    """

    def __init__(self, *arguments, last_width: int, **options):
        super().__init__(*arguments, global_pool="avg", fc_norm=False, **options)
        self.norm = nn.Sequential(
            nn.Linear(self.embed_dim, last_width, bias=False), nn.LayerNorm(last_width)
        )
        _widen_head(self, last_width)


class WideBlock(Block):
    """timm's block, ``dim`` wide, behind a linear map D → ``dim`` without bias and a LayerNorm."""

    def __init__(self, channels: int, dim: int, norm_layer: Callable[..., nn.Module], **options):
        super().__init__(dim=dim, norm_layer=norm_layer, **options)
        self.widen = nn.Sequential(nn.Linear(channels, dim, bias=False), norm_layer(dim))

    def forward(self, x: Tensor, **options) -> Tensor:
        """(B, N, D) → (B, N, ``dim``)."""
        return super().forward(self.widen(x), **options)


class WideLastTransformer(VisionTransformer):
    """A ViT whose last block, final norm and head are ``last_width`` wide.

    All is initialised as timm does a ViT. The authors' README counts 7,239,016 parameters for
    DeiT-Tiny with 384 channels; their code has 7,313,896, as this network.

    Args:
        last_width: the channels of the last block.
        last_heads: its attention heads.
    """

    def __init__(self, *arguments, last_width: int, last_heads: int, depth: int = 12, **options):
        def block(dim: int, num_heads: int, depth: int, **shared) -> Block:
            if depth < last:
                return Block(dim=dim, num_heads=num_heads, depth=depth, **shared)
            return WideBlock(dim, last_width, num_heads=last_heads, depth=depth, **shared)

        last = depth - 1
        super().__init__(*arguments, depth=depth, block_fn=block, **options)
        self.norm = deepcopy(self.blocks[-1].norm1)  # as wide as it, and of the same kind
        self.feature_info[-1]["num_chs"] = last_width
        _widen_head(self, last_width)
        self.init_weights(needs_reset=False)


def _widen_head(network: VisionTransformer, width: int) -> None:
    network.num_features = network.head_hidden_size = network.embed_dim = width
    network.reset_classifier(network.num_classes)


def _create(kind: type[VisionTransformer], variant: str, pretrained: bool, options: dict):
    return build_model_with_cfg(kind, variant, pretrained, **{**DEIT_TINY, **options})


# What timm says of its DeiT-Tiny, but for the weights.
_DEIT = get_pretrained_cfg("deit_tiny_patch16_224")
default_cfgs = generate_default_cfgs(
    {
        f"deit_tiny_{kind}_patch16_224": {
            key: getattr(_DEIT, key)
            for key in (
                *("num_classes", "input_size", "fixed_input_size", "interpolation", "crop_pct"),
                *("mean", "std", "first_conv", "classifier"),
            )
        }
        for kind in ("lift", "wide_last")
    }
)


@register_model
def deit_tiny_lift_patch16_224(pretrained: bool = False, **options) -> LiftedTransformer:
    """DeiT-Tiny with a lift; ``last_width`` is to be given."""
    return _create(LiftedTransformer, "deit_tiny_lift_patch16_224", pretrained, options)


@register_model
def deit_tiny_wide_last_patch16_224(pretrained: bool = False, **options) -> WideLastTransformer:
    """DeiT-Tiny with a wider last block; ``last_width`` and ``last_heads`` are to be given."""
    return _create(WideLastTransformer, "deit_tiny_wide_last_patch16_224", pretrained, options)
