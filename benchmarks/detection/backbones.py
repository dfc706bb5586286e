"""Students as backbones of mmdet's detectors, and the pyramids that they are put through.

A backbone gives the maps that timm's own ``forward_intermediates`` gives: every stage of a
hierarchical network (Swin, ConvNeXt), the last block of a plain one (DeiT).
"""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d, PatchEmbed
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn

from manifold.errors import UserError
from manifold.models import classes_of, create_model, load_weights, read_weights
from manifold.settings import Model

# What lets a network of timm read images of any size; convolutional networks need nothing.
ANY_SIZE = {
    VisionTransformer: {"dynamic_img_size": True, "dynamic_img_pad": True},
    SwinTransformer: {
        "strict_img_size": False,
        "embed_layer": partial(PatchEmbed, dynamic_img_pad=True),
    },
}


@MODELS.register_module()
class Student(BaseModule):
    """A student's network without its head, for images of any size.

    Args:
        name, arguments: of the timm model, as in a pair's ``student``.
        image_shape: (channels, height, width) that the student was trained on.
        weights: its ``student.safetensors``; None for random weights.
        channels: of the detector's images. A grey student sees a grey picture in three channels as
            it does in one: its first convolution is spread over them.
        drop_path: the rate of stochastic depth while the detector is trained.

    Attributes:
        strides: the side of a map's cell in pixels, map by map.
        widths: the channels of each map.

    Raises:
        UserError: weights that are missing, damaged or of another network; a network that gives no
            maps, or whose images must be of one size.
    """

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any],
        image_shape: tuple[int, int, int],
        weights: str | None,
        channels: int,
        drop_path: float = 0.0,
    ):
        super().__init__()
        model, what = Model(name=name, arguments=dict(arguments)), f"the student {name!r}"
        classes = (classes_of(read_weights(Path(weights), what)) or 0) if weights else 0
        trained = create_model(model, tuple(image_shape), classes)
        if weights:
            load_weights(trained, Path(weights), what)
        _check(trained, name)
        sizes = next((own for kind, own in ANY_SIZE.items() if isinstance(trained, kind)), {})
        self.network = create_model(
            Model(name=name, arguments={**model.arguments, **sizes}),
            (channels, *image_shape[1:]),
            classes,
            drop_path,
        )
        self.network.load_state_dict(
            _with_channels(trained.state_dict(), trained.pretrained_cfg["first_conv"], channels)
        )
        self.strides = [stage["reduction"] for stage in trained.feature_info]
        self.widths = [stage["num_chs"] for stage in trained.feature_info]
        if len(set(self.strides)) == 1:  # a plain network: its last block alone
            self.strides, self.widths = self.strides[-1:], self.widths[-1:]
        # The final norm and the head see no gradient of a detector.
        self.layers = self.network.prune_intermediate_layers(
            len(self.strides), prune_norm=True, prune_head=True
        )

    def init_weights(self) -> None:
        """Keep the weights: mmengine would call timm's ``init_weights``, which draws new ones."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, (B, width, ⌈H / stride⌉, ⌈W / stride⌉) each, of (B, C, H, W) images."""
        return self.network.forward_intermediates(
            images, indices=self.layers, output_fmt="NCHW", intermediates_only=True
        )


def _check(network: nn.Module, name: str) -> None:
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "feature_info"):
        raise UserError(f"{name} cannot be a backbone: timm's network gives no maps of features")
    fixed = network.pretrained_cfg.get("fixed_input_size", False)
    if fixed and not isinstance(network, tuple(ANY_SIZE)):
        raise UserError(
            f"{name} cannot be a backbone: timm's {type(network).__name__} reads images of one "
            "size only; choose a DeiT, ViT, Swin or convolutional student"
        )


def _with_channels(state: dict[str, Tensor], first: str, channels: int) -> dict[str, Tensor]:
    """Spread the first convolution of a grey network over three channels, or add three up."""
    weight = state[f"{first}.weight"]
    if weight.shape[1] == channels:
        return state
    summed = weight.sum(dim=1, keepdim=True)
    return {**state, f"{first}.weight": summed.repeat(1, channels, 1, 1) / channels}


@MODELS.register_module()
class NormalisedFPN(FPN):
    """mmdet's FPN behind one LayerNorm a map, as Swin's detectors have it.

    Source: Liu et al. 2021, arXiv 2103.14030 (released detection code); Lin et al. 2017, FPN.
    """

    def __init__(self, in_channels: list[int], **arguments: Any):
        super().__init__(in_channels=in_channels, **arguments)
        # Maps below start_level have no lateral, so a norm of theirs would never be trained.
        self.norms = nn.ModuleList(
            LayerNorm2d(width) if level >= self.start_level else nn.Identity()
            for level, width in enumerate(in_channels)
        )

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        return super().forward(
            [norm(values) for norm, values in zip(self.norms, maps, strict=True)]
        )


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """A pyramid from the one map of a plain ViT, each level made from that map alone.

    A level of scale 2ⁿ goes through n transposed 2×2 convolutions of stride 2 (LayerNorm and GELU
    between two of them; the width is halved by each), one of scale 1/2 through 2×2 max-pooling;
    then a 1×1 and a 3×3 convolution, each with LayerNorm. Further levels halve the last one by
    subsampling. The map is normalised first, since the backbone's final norm is cut off.

    Args:
        in_channels: [width of the map].
        out_channels: of every level.
        scales: of the levels, largest first: powers of 2.
        num_outs: levels in all.

    Source: Li et al. 2022, Exploring Plain Vision Transformer Backbones for Object Detection, arXiv
    2203.16527, section 3.
    """

    def __init__(
        self, in_channels: list[int], out_channels: int, scales: list[float], num_outs: int
    ):
        super().__init__()
        (width,) = in_channels
        self.norm = LayerNorm2d(width)
        self.levels = nn.ModuleList(_level(width, out_channels, scale) for scale in scales)
        self.further = num_outs - len(scales)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        (values,) = maps
        values = self.norm(values)
        levels = [level(values) for level in self.levels]
        for _ in range(self.further):
            levels.append(nn.functional.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return tuple(levels)


def _level(width: int, out_channels: int, scale: float) -> nn.Sequential:
    steps: list[nn.Module] = []
    while scale > 1:
        if steps:
            steps += [LayerNorm2d(width), nn.GELU()]
        steps.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width, scale = width // 2, scale / 2
    while scale < 1:
        steps.append(nn.MaxPool2d(kernel_size=2, stride=2))
        scale *= 2
    for kernel in (1, 3):
        steps += [
            nn.Conv2d(width, out_channels, kernel, padding=kernel // 2, bias=False),
            LayerNorm2d(out_channels),
        ]
        width = out_channels
    return nn.Sequential(*steps)


@torch.no_grad()
def describe(backbone: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The strides and widths of a backbone's maps, from its configuration."""
    built = MODELS.build({**backbone, "weights": None})
    return built.strides, built.widths
