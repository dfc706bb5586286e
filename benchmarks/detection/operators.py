"""What stands in for mmcv's compiled operators: those that the detectors use, by torchvision.

``mmcv-lite`` brings the Python side of mmcv's operators without the extension ``mmcv._ext`` behind
it, of which there is no build for current torch. ``install`` lets that name be imported all the
same: non-maximum suppression, RoIAlign and the sigmoid focal loss then run on torchvision's kernels
and torch, with the arguments that ``mmcv/ops/{nms,roi_align,focal_loss}.py`` pass (outputs are
written in place), and any other operator is an error by its name. Enough for Mask R-CNN,
Cascade R-CNN, RetinaNet and FCOS. An mmcv that was built with its extension is left as it is.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

import torch
import torchvision
from torch import Tensor
from torch.nn import functional

EXTENSION = "mmcv._ext"
AVERAGE = 1  # mmcv's pool_mode; 0 is the maximum


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one dtype: float32, or float64 where one of them has it.

    Under autocast some are float16 or bfloat16, in which a corner at x = 1,333 is off by a pixel.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices (K,) of the boxes that no kept box of a higher score overlaps by more than that.

    Boxes are (N, 4) as x1, y1, x2, y2, of which widths and heights are x2 − x1 + ``offset``. The
    order is by falling score; of equal scores the first comes first.
    """
    bboxes, scores = _at_least_float32(bboxes, scores)
    # the compiled operator compares in float32, in which an overlap of 3/10 is not above 0.3
    iou_threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision.ops.nms(
        bboxes + bboxes.new_tensor([0, 0, offset, offset]), scores, iou_threshold
    )


def _refuse_maximum(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise NotImplementedError(
            "RoIAlign with pool_mode 'max': torchvision's kernel averages; use pool_mode 'avg', or "
            "install mmcv built with its operators for this torch"
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the pooled maps of (B, C, H, W) at rois (R, 5) to ``output`` (R, C, height, width).

    A roi is the index of its image and x1, y1, x2, y2. The ``argmax`` tensors are for pooling by
    the maximum, which is refused.
    """
    _refuse_maximum(pool_mode)
    maps, rois = _at_least_float32(input, rois)
    output.copy_(
        torch.ops.torchvision.roi_align(
            maps, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient by the maps to ``grad_input`` (B, C, H, W), given that by the output."""
    _refuse_maximum(pool_mode)
    gradient, rois = _at_least_float32(grad_output, rois)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            gradient,
            rois,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _focal_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Per logit: the sign of its label, log p of that label, and the factor before the loss.

    A target is a class, or the number of classes for background, of which every label is
    negative. ``weight`` is empty, or one number a class that all logits of a row of that class
    take, as in mmcv; it has none for background.
    """
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    sign = 2 * positive.to(input.dtype) - 1
    factor = torch.where(positive, input.new_tensor(alpha), input.new_tensor(1 - alpha))
    if weight.numel():
        factor = factor * weight.to(input.dtype)[target][:, None]
    return sign, functional.logsigmoid(sign * input), factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Write −α_t (1 − p_t)^γ log p_t of each logit of (N, C) to ``output`` (N, C).

    Lin et al. 2017, Focal loss for dense object detection, equation 5, with the sigmoid's p; α_t is
    ``alpha`` for a positive label and 1 − ``alpha`` for a negative one.
    """
    (logits,) = _at_least_float32(input)
    sign, log_p, factor = _focal_terms(logits, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-sign * logits) ** gamma * log_p)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Write the derivative of each logit's loss by that logit to ``grad_input`` (N, C).

    With q_t = 1 − p_t and s = ±1 by the label: −s α_t q_t^γ (q_t − γ p_t log p_t).
    """
    (logits,) = _at_least_float32(input)
    sign, log_p, factor = _focal_terms(logits, target, weight, alpha)
    q = torch.sigmoid(-sign * logits)
    grad_input.copy_(-sign * factor * q**gamma * (q - gamma * torch.exp(log_p) * log_p))


OPERATORS = (
    nms,
    roi_align_forward,
    roi_align_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
)


def _missing(name: str):
    """An operator that is not here: mmcv looks it up when it is imported, so only a call fails."""
    if name.startswith("_"):  # what Python itself asks a module for
        raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")

    def operator(*arguments, **options):
        raise NotImplementedError(
            f"mmcv's operator '{name}' has no stand-in here; choose a detector that does without "
            "it, or install mmcv built with its operators for this torch in place of mmcv-lite"
        )

    return operator


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` where nothing before it on ``sys.meta_path`` has."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != EXTENSION:
            return None
        return importlib.machinery.ModuleSpec(EXTENSION, self, origin=__file__)

    def exec_module(self, module: ModuleType) -> None:
        for operator in OPERATORS:
            setattr(module, operator.__name__, operator)
        module.__getattr__ = _missing


def install() -> None:
    """Let ``mmcv._ext`` be imported from here if the installed mmcv has none of its own."""
    if not any(isinstance(finder, _StandIn) for finder in sys.meta_path):
        sys.meta_path.append(_StandIn())
