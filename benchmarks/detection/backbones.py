"""Students as backbones of mmdet's detectors, and the pyramids that they are put through."""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
from pathlib import Path
from typing import Any

import torch
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from benchmarks.backbones import SimpleFeaturePyramid, maps_of, open_network
from manifold.settings import Model

MODELS.register_module(module=SimpleFeaturePyramid)


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
        blocks: how many blocks of a plain network give a map, see ``evenly_spaced``. Of a
            hierarchical network all stages do, whatever is said here.
        patch_embedding_alone: take nothing of the weights but the first convolution, which is a
            ViT's patch embedding; the rest is drawn as it would be without weights.

    Attributes:
        strides: the side of a map's cell in pixels, map by map.
        widths: the channels of each map.

    Raises:
        UserError: weights that are missing, damaged or of another network; a network that gives no
            maps, or whose images must be of one size, or that has fewer blocks.
    """

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any],
        image_shape: tuple[int, int, int],
        weights: str | None,
        channels: int,
        drop_path: float = 0.0,
        blocks: int = 1,
        patch_embedding_alone: bool = False,
    ):
        super().__init__()
        student = Path(weights) if weights else None
        self.network = open_network(
            Model(name=name, arguments=dict(arguments)),
            tuple(image_shape),
            None if patch_embedding_alone else student,
            channels,
            drop_path,
            student if patch_embedding_alone else None,
        )
        layers, self.strides, self.widths = maps_of(self.network, blocks, "model.backbone.blocks")
        # The final norm and the head see no gradient of a detector.
        self.layers = self.network.prune_intermediate_layers(
            layers, prune_norm=True, prune_head=True
        )

    def init_weights(self) -> None:
        """Keep the weights: mmengine would call timm's ``init_weights``, which draws new ones."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, (B, width, ⌈H / stride⌉, ⌈W / stride⌉) each, of (B, C, H, W) images."""
        return self.network.forward_intermediates(
            images, indices=self.layers, output_fmt="NCHW", intermediates_only=True
        )


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


@torch.no_grad()
def describe(backbone: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The strides and widths of a backbone's maps, from its configuration."""
    built = MODELS.build({**backbone, "weights": None})
    return built.strides, built.widths
