"""What detectors weigh: their parameters and FLOPs."""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rehearsal.networks import countable_attention
from manifold.models import count_parameters


def weigh(settings: Config, size: list[int]) -> dict[str, dict[str, float]]:
    """Parameters, and multiply-accumulates of one image's forward pass, part by part.

    Regions are as many as a test passes on, 1,000, and the mask branch sees mmdet's 100 of them.
    """
    with countable_attention():
        model = MODELS.build(settings.model)
    model.eval().requires_grad_(False)
    width, height = size
    images = torch.zeros(1, len(settings.model.data_preprocessor.mean), height, width)
    gmacs = {}
    with FlopCounterMode(display=False) as counter:
        maps = model.backbone(images)
        gmacs["backbone"] = counter.get_total_flops() / 2e9
        levels = model.neck(maps)
        gmacs["pyramid"] = counter.get_total_flops() / 2e9 - gmacs["backbone"]
        if hasattr(model, "roi_head"):
            model.rpn_head(levels)
            regions = torch.zeros(settings.model.test_cfg.rpn.max_per_img, 4)
            model.roi_head.forward(levels, [InstanceData(bboxes=regions)])
        else:
            model.bbox_head(levels)
    gmacs["all"] = counter.get_total_flops() / 2e9
    gmacs["heads"] = gmacs["all"] - gmacs["pyramid"] - gmacs["backbone"]
    parameters = {
        "backbone": count_parameters(model.backbone),
        "pyramid": count_parameters(model.neck),
        "all": count_parameters(model),
    }
    parameters["heads"] = parameters["all"] - parameters["pyramid"] - parameters["backbone"]
    return {"parameters": parameters, "gmacs": gmacs}
