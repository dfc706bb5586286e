"""What stands on a backbone: a linear head on frozen tokens, or UPerNet's decoder on a pyramid."""

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from benchmarks.backbones import SimpleFeaturePyramid, maps_of
from benchmarks.segmentation.settings import Decoder


def enlarge(logits: Tensor, cell: float, size: tuple[int, int]) -> Tensor:
    """Logits (B, classes, h, w) of cells of ``cell`` pixels, bilinearly at each pixel.

    Maps of padded images reach beyond them: what does is cut off.

    Args:
        size: height, width of the images.

    Returns:
        (B, classes, height, width).
    """
    covered = [round(cells * cell) for cells in logits.shape[-2:]]
    logits = F.interpolate(logits, size=covered, mode="bilinear", align_corners=False)
    return logits[..., : size[0], : size[1]]


class LinearHead(nn.Module):
    """Batch norm and a linear layer on each token.

    Source: the linear evaluation of segmentation in Oquab et al. 2023, DINOv2, arXiv 2304.07193,
    section 7.4.

    Args:
        width: channels of the tokens.
        stride: side of a token's cell in pixels.
        size: height, width of the images that the tokens are of.
    """

    def __init__(self, width: int, classes: int, stride: int, size: tuple[int, int]):
        super().__init__()
        self.stride, self.size = stride, size
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of tokens (B, width, h, w)."""
        return enlarge(self.classifier(self.norm(tokens)), self.stride, self.size)


@torch.no_grad()
def last_tokens(network: nn.Module, images: Tensor) -> Tensor:
    """The tokens (B, width, h, w) that leave a network's last block, behind its final norm."""
    (tokens,) = network.forward_intermediates(
        images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
    )
    return tokens


class UPerDecoder(nn.Module):
    """UPerNet's decoder: pyramid pooling on the coarsest level, a top-down path, all levels fused.

    Narrower than its authors', and with LayerNorm in the place of batch norm, which a batch of one
    image, or a pooled map of one cell, cannot be trained with.

    Args:
        widths: channels of the levels, finest first.
        channels: of each level inside.
        pools: sides of the grids that the coarsest level is pooled to.

    Source: Xiao et al. 2018, Unified Perceptual Parsing for Scene Understanding, arXiv 1807.10221,
    section 3.1; pyramid pooling: Zhao et al. 2017, arXiv 1612.01105, section 3.2.
    """

    def __init__(self, widths: list[int], classes: int, channels: int, pools: list[int]):
        super().__init__()
        *finer, coarsest = widths
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _convolution(coarsest, channels, 1))
            for side in pools
        )
        self.bottleneck = _convolution(coarsest + channels * len(pools), channels, 3)
        self.laterals = nn.ModuleList(_convolution(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(_convolution(channels, channels, 3) for _ in finer)
        self.fuse = _convolution(channels * len(widths), channels, 3)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Logits (B, classes, h, w) on the grid of the finest of ``levels``, which come first."""
        *finer, coarsest = levels
        pooled = [_as_large_as(pool(coarsest), coarsest) for pool in self.pools]
        merged = [self.bottleneck(torch.cat([coarsest, *pooled], dim=1))]
        for lateral, values in reversed(list(zip(self.laterals, finer, strict=True))):
            merged.insert(0, lateral(values) + _as_large_as(merged[0], values))
        smooth = [layer(values) for layer, values in zip(self.smooth, merged[:-1], strict=True)]
        maps = [_as_large_as(values, levels[0]) for values in [*smooth, merged[-1]]]
        return self.classifier(self.fuse(torch.cat(maps, dim=1)))


def _as_large_as(values: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(values, size=other.shape[-2:], mode="bilinear", align_corners=False)


def _convolution(width: int, channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, kernel, padding=kernel // 2, bias=False),
        LayerNorm2d(channels),
        nn.GELU(),
    )


class Segmenter(nn.Module):
    """A backbone with its pyramid and UPerNet's decoder.

    The pyramid is the one that detection has: of a plain network made from the maps of its blocks,
    of a hierarchical one its stages, each behind a LayerNorm.

    Args:
        network: as ``open_network`` gives it; its final norm is cut off.

    Raises:
        UserError: a plain network has fewer blocks than the settings take.
    """

    def __init__(self, network: nn.Module, classes: int, settings: Decoder):
        super().__init__()
        self.network = network
        layers, strides, widths = maps_of(network, settings.blocks, "decoder.blocks")
        self.stride = strides[0]
        self.layers = network.prune_intermediate_layers(layers, prune_norm=True, prune_head=True)
        if len(set(strides)) == 1:
            levels = len(settings.scales)
            self.pyramid = SimpleFeaturePyramid(widths, settings.channels, settings.scales, levels)
            widths = [settings.channels] * levels
        else:
            self.pyramid = NormalisedMaps(widths)
        self.decoder = UPerDecoder(widths, classes, settings.channels, settings.pools)

    def no_weight_decay(self) -> set[str]:
        """What timm's optimizers leave undecayed beside parameters of one dimension."""
        names = getattr(self.network, "no_weight_decay", set)()
        return {f"network.{name}" for name in names}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of images (B, C, H, W)."""
        maps = self.network.forward_intermediates(
            images, indices=self.layers, output_fmt="NCHW", intermediates_only=True
        )
        logits = self.decoder(list(self.pyramid(maps)))
        cell = self.stride * maps[0].shape[-1] / logits.shape[-1]
        return enlarge(logits, cell, images.shape[-2:])


class NormalisedMaps(nn.Module):
    """One LayerNorm a map of a hierarchical network, as Swin's dense predictors have it."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.norms = nn.ModuleList(map(LayerNorm2d, widths))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [norm(values) for norm, values in zip(self.norms, maps, strict=True)]
