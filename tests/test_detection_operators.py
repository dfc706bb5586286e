"""mmcv's operators on torchvision: mmcv's own numbers, float64 references, gradients, refusals."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from benchmarks.detection import mmdetection, operators  # noqa: F401 (installs them)
from manifold.settings import ROOT

# isort: split
import mmcv
from mmcv.ops import (
    DeformConv2d,
    RoIAlign,
    RoIPool,
    batched_nms,
    nms,
    roi_align,
    sigmoid_focal_loss,
    soft_nms,
)
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

GOLDEN = json.loads(
    (Path(__file__).parent / "golden/mmcv_operators.json").read_text(encoding="utf-8")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated"),
]


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(
        torch.as_tensor(actual).detach().double().numpy(), expected, rtol=0, atol=tolerance
    )


# ---- non-maximum suppression -----------------------------------------------------------------


def boxes_and_scores(seed, count=60, side=40):
    """Boxes of whole pixels, which overlap much, and scores that all differ."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, side, size=(count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, side, size=(count, 2))], axis=1)
    return boxes.astype(np.float64), rng.permutation(count) / count


def reference_nms(boxes, scores, threshold, offset):
    """Visit boxes by falling score; keep each that overlaps no kept one by more than that."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        overlaps = []
        for j in kept:
            starts, ends = (
                np.maximum(boxes[i, :2], boxes[j, :2]),
                np.minimum(boxes[i], boxes[j])[2:],
            )
            common = np.prod(np.maximum(ends - starts + offset, 0))
            areas = [np.prod(boxes[k, 2:] - boxes[k, :2] + offset) for k in (i, j)]
            overlaps.append(common / (sum(areas) - common))
        if not any(overlap > threshold for overlap in overlaps):
            kept.append(i)
    return kept


@pytest.mark.parametrize("case", GOLDEN["nms"])
@pytest.mark.parametrize("make", [np.float32, torch.FloatTensor])
def test_nms_gives_mmcvs_numbers(case, make):
    boxes, scores = make(case["boxes"]), make(case["scores"])
    detections, kept = nms(boxes, scores, case["iou_threshold"], case["offset"])
    assert kept.tolist() == case["kept"]
    assert type(kept) is type(boxes)
    close(detections[:, :4], np.array(case["boxes"])[kept])
    close(detections[:, 4], np.array(case["scores"])[kept], 1e-7)


@pytest.mark.parametrize("options", [{}, {"split_thr": 100}, {"max_num": 7}])
def test_batched_nms_gives_mmcvs_numbers(options):
    case = GOLDEN["batched_nms"]
    boxes, scores = torch.tensor(case["boxes"]), torch.tensor(case["scores"])
    settings = {"type": "nms", "iou_threshold": case["iou_threshold"], **options}
    detections, kept = batched_nms(boxes, scores, torch.tensor(case["classes"]), settings)
    assert kept.tolist() == case["kept"][: options.get("max_num")]
    assert torch.equal(detections, torch.cat([boxes[kept], scores[kept, None]], dim=1))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.25, 0.55])
def test_nms_is_the_reference(offset, threshold):
    differing = 0
    for seed in range(4):
        boxes, scores = boxes_and_scores(seed)
        expected = reference_nms(boxes, scores, threshold, offset)
        differing += expected != reference_nms(boxes, scores, threshold, 1 - offset)
        for dtype in (torch.float64, torch.float32):
            given = torch.tensor(boxes, dtype=dtype), torch.tensor(scores, dtype=dtype)
            assert nms(*given, threshold, offset)[1].tolist() == expected
    assert differing  # the offset is not without effect here


def test_nms_of_equal_scores_keeps_the_first_and_their_order():
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [0, 0, 9, 9], [20, 0, 29, 9]]).repeat(
        9, 1
    )
    scores = torch.tensor([0.5, 0.5, 0.5, 0.5]).repeat(9)
    assert nms(boxes, scores, 0.5)[1].tolist() == [0, 1]


def test_nms_compares_in_float32():
    # An overlap of 3 / 10: in float64 the nearest float32 of it is above 0.3.
    boxes, scores = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]]), torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.3)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.29)[1].tolist() == [0]


def test_nms_of_nothing_is_empty():
    detections, kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert detections.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_of_half_precision_is_that_of_its_values(dtype):
    boxes, scores = (torch.tensor(values).to(dtype) for values in boxes_and_scores(0))
    expected = nms(boxes.float(), scores.float(), 0.5, 1)[1]
    assert torch.equal(nms(boxes, scores, 0.5, 1)[1], expected)
    assert torch.equal(nms(boxes, scores.float(), 0.5, 1)[1], expected)


# ---- RoIAlign --------------------------------------------------------------------------------


def axis_weights(start, end, bins, size, samples, aligned):
    """(bins, size): what each cell of one axis adds to each bin, all but for the other axis.

    A sample at x weighs the cells i by max(0, 1 − |x − i|), x moved to the nearest cell's middle
    where it is outside by one cell at most; farther away it counts, and adds nothing.
    """
    if not aligned:
        end = max(end, start + 1)
    length = (end - start) / bins
    samples = samples or int(np.ceil(length))
    weights = np.zeros((bins, size))
    for index in range(bins):
        for sample in range(samples):
            x = start + (index + (sample + 0.5) / samples) * length
            if -1 <= x <= size:
                distance = np.abs(np.clip(x, 0, size - 1) - np.arange(size))
                weights[index] += np.maximum(0, 1 - distance) / samples
    return weights


def reference_roi_align(maps, rois, bins, scale, samples, aligned, gradient):
    """Pooled maps, and the gradient by the maps that ``gradient`` of those gives."""
    outputs, by_maps = [], np.zeros_like(maps)
    for (image, *box), given in zip(rois, gradient, strict=True):
        left, top, right, bottom = np.array(box) * scale - (0.5 if aligned else 0)
        down = axis_weights(top, bottom, bins[0], maps.shape[2], samples, aligned)
        along = axis_weights(left, right, bins[1], maps.shape[3], samples, aligned)
        outputs.append(down @ maps[int(image)] @ along.T)
        by_maps[int(image)] += down.T @ given @ along
    return np.array(outputs), by_maps


def maps_and_rois(scale):
    """Maps of two images, and regions: inside, over each edge, outside, thin, without area."""
    rng = np.random.default_rng(0)
    rois = np.array(
        [
            [0, 1.3, 2.2, 5.9, 6.4],
            [1, -3.1, -2.3, 4.2, 3.3],
            [1, 3.7, 5.1, 9.6, 12.8],
            [0, 20.5, 1.5, 24.5, 4.5],
            [0, 2.15, 3.35, 2.45, 8.05],
            [1, 4.1, 4.3, 4.1, 4.3],
        ]
    )
    rois[:, 1:] /= scale
    return rng.standard_normal((2, 3, 9, 7)), rois


@pytest.mark.parametrize("case", GOLDEN["roi_align"]["cases"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_roi_align_gives_mmcvs_numbers(case, dtype):
    settings = GOLDEN["roi_align"]
    maps = torch.tensor(case["maps"], dtype=dtype, requires_grad=True)
    pooled = RoIAlign(
        settings["output_size"],
        settings["spatial_scale"],
        settings["sampling_ratio"],
        aligned=settings["aligned"],
    )(maps, torch.tensor(case["rois"], dtype=dtype))
    pooled.backward(torch.ones_like(pooled))
    assert pooled.dtype == maps.grad.dtype == dtype
    tolerance = 1e-6 if dtype.itemsize >= 4 else 4 * torch.finfo(dtype).eps
    close(pooled, case["output"], tolerance)
    close(maps.grad, case["gradient_of_sum"], tolerance)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("scale", [1.0, 0.3, 1 / 14])
def test_roi_align_is_the_reference(aligned, samples, scale):
    maps, rois = maps_and_rois(scale)
    bins = (2, 3)
    gradient = np.random.default_rng(1).standard_normal((len(rois), 3, *bins))
    expected, by_maps = reference_roi_align(maps, rois, bins, scale, samples, aligned, gradient)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        given = torch.tensor(maps, dtype=dtype, requires_grad=True)
        pooled = roi_align(
            given, torch.tensor(rois, dtype=dtype), bins, scale, samples, "avg", aligned
        )
        # as heads give it: not contiguous
        pooled.backward(torch.tensor(gradient, dtype=dtype).mT.contiguous().mT)
        close(pooled, expected, tolerance)
        close(given.grad, by_maps, tolerance)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_gradient_of_roi_align_is_that_of_finite_differences(aligned, samples):
    maps, rois = maps_and_rois(0.25)
    layer = RoIAlign((2, 3), 0.25, samples, aligned=aligned)
    given = torch.tensor(maps[:, :1], requires_grad=True)
    assert torch.autograd.gradcheck(layer, (given, torch.tensor(rois)))


def test_roi_align_of_half_precision_keeps_regions_exact():
    # 1,001.5 is no float16; a region rounded to it would be half a pixel off.
    maps, rois = torch.randn(1, 2, 4, 80), torch.tensor([[0, 1001.5, 10.0, 1180.5, 50.0]])
    expected = roi_align(maps.half().float(), rois, 2, 1 / 16)
    close(roi_align(maps.half(), rois, 2, 1 / 16), expected.numpy(), 2e-3)


def test_roi_align_without_regions_is_empty_and_its_gradient_zero():
    maps = torch.randn(2, 3, 5, 5, requires_grad=True)
    pooled = roi_align(maps, torch.zeros(0, 5), 7)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))


def test_roi_align_by_the_maximum_is_refused():
    layer = RoIAlign(2, pool_mode="max")
    with pytest.raises(NotImplementedError, match=r"pool_mode 'max'.*use pool_mode 'avg'"):
        layer(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5))


# ---- focal loss ------------------------------------------------------------------------------


def reference_focal_loss(logits, targets, gamma, alpha, weight=None):
    """−α_t (1 − p_t)^γ log p_t; a row's weight is that of its target."""
    p = 1 / (1 + np.exp(-logits))
    positive = np.eye(logits.shape[1] + 1)[targets][:, :-1].astype(bool)
    p_t, alpha_t = np.where(positive, p, 1 - p), np.where(positive, alpha, 1 - alpha)
    loss = -alpha_t * (1 - p_t) ** gamma * np.log(p_t)
    return loss if weight is None else loss * weight[targets][:, None]


@pytest.mark.parametrize("case", GOLDEN["sigmoid_focal_loss"]["cases"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_focal_loss_gives_mmcvs_numbers(case, dtype):
    settings = GOLDEN["sigmoid_focal_loss"]
    logits = torch.tensor(case["logits"], dtype=dtype, requires_grad=True)
    loss = sigmoid_focal_loss(
        logits,
        torch.tensor(case["targets"]),
        settings["gamma"],
        settings["alpha"],
        None,
        settings["reduction"],
    )
    loss.backward()
    tolerance = 1e-6 if dtype.itemsize >= 4 else 2 * torch.finfo(dtype).eps
    close(loss, case["loss"], tolerance)
    close(logits.grad, case["gradient"], tolerance)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_focal_loss_is_the_reference(gamma, weighted, reduction):
    rng = np.random.default_rng(0)
    logits, weight = 3 * rng.standard_normal((6, 4)), rng.uniform(0.5, 2, size=4)
    targets = np.array([0, 3, 2, 1, 0, 2 if weighted else 4])  # 4: background
    expected = reference_focal_loss(logits, targets, gamma, 0.3, weight if weighted else None)
    expected = {"none": expected, "sum": expected.sum(), "mean": expected.sum() / 6}[reduction]
    given = torch.tensor(logits, requires_grad=True)

    def loss(values):
        weights = torch.tensor(weight) if weighted else None
        return sigmoid_focal_loss(values, torch.tensor(targets), gamma, 0.3, weights, reduction)

    close(loss(given), expected, 1e-12)
    if reduction == "none":
        # mmcv multiplies by the incoming gradient, one number a logit
        (gradient,) = torch.autograd.grad(loss(given), given, torch.tensor(logits))
        (ones,) = torch.autograd.grad(loss(given).sum(), given)
        close(gradient, ones.numpy() * logits, 1e-12)
    assert torch.autograd.gradcheck(loss, (given,))


def test_focal_loss_of_background_has_negative_labels_only():
    logits = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    background = sigmoid_focal_loss(logits, torch.tensor([2]), 2.0, 0.25, None, "none")
    as_second = sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "none")
    assert background[0, 0] == as_second[0, 0]
    close(background, reference_focal_loss(logits.numpy(), [2], 2, 0.25), 1e-12)


def test_focal_loss_refuses_a_weight_for_background():
    with pytest.raises(IndexError):
        sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([2]), 2.0, 0.25, torch.ones(2))


def test_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 0]), 2.0, 0.25, None, "none")
    close(loss, [[0, 0], [0.25 * 200, 0.75 * 200]], 1e-4)
    loss.sum().backward()
    close(logits.grad, [[0, 0], [-0.25, 0.75]], 1e-6)


def test_focal_loss_without_rows_is_empty():
    assert sigmoid_focal_loss(torch.zeros(0, 3), torch.zeros(0).long(), 2.0, 0.25, None, "sum") == 0


# ---- the module ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("deform_conv_forward", lambda x: DeformConv2d(1, 1, 1)(x, x.new_zeros(1, 2, 4, 4))),
        ("roi_pool_forward", lambda x: RoIPool(2)(x, x.new_zeros(1, 5))),
        ("softnms", lambda x: soft_nms(x.new_zeros(1, 4), x.new_zeros(1))),
    ],
)
def test_an_operator_that_is_not_here_says_so(name, call):
    with pytest.raises(NotImplementedError, match=rf"'{name}' has no stand-in.*install mmcv built"):
        call(torch.zeros(1, 1, 4, 4))


def test_installing_twice_changes_nothing():
    finders, extension = list(sys.meta_path), sys.modules[operators.EXTENSION]
    operators.install()
    assert sys.meta_path == finders
    assert sys.modules[operators.EXTENSION] is extension
    assert not hasattr(extension, "__path__")  # what Python asks for is not an operator


def test_a_real_extension_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, operators.EXTENSION)  # or what is imported is found again
    assert importlib.util.find_spec(operators.EXTENSION).origin == operators.__file__
    real = tmp_path / "_ext.py"
    real.touch()
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    assert importlib.util.find_spec(operators.EXTENSION).origin == str(real)


@pytest.mark.slow
def test_the_rest_of_the_suite_does_without_detection():
    code = """
import importlib, pkgutil, sys
missing = ["mmcv", "mmdet", "mmengine", "pycocotools", "skimage", "mlxtend"]
sys.modules.update(dict.fromkeys(missing))  # to import one of them is a ModuleNotFoundError

def import_all(package):
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        if not module.ispkg:
            importlib.import_module(module.name)
        elif module.name != "benchmarks.detection":
            import_all(module.name)

for package in ("manifold", "baselines", "benchmarks"):
    import_all(package)
assert {"manifold.training.train", "benchmarks.table1", "benchmarks.transfer"} <= set(sys.modules)
assert "benchmarks.detection" not in sys.modules

from manifold.settings import resolve
studies = resolve({"scale": "smoke"}).studies  # planning needs none of them
jobs = [*studies["detection"].jobs(), *studies["rehearsal_detection"].jobs()]
modules = [job.run.partition(":")[0] for job in jobs]
for module in [*modules, "benchmarks.detection.pictures"]:
    try:
        importlib.import_module(module)
    except ValueError as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == 5
    for message in messages:
        assert message.startswith("UserError detection needs mmengine, mmcv, mmdet, pycocotools, ")
        assert message.endswith("pip install '.[detection]'")


# ---- mmdet -----------------------------------------------------------------------------------


def small(name, tmp_path):
    """A detector of mmdet's own configuration, narrow and on a ResNet-18."""
    path = tmp_path / "detector.py"
    path.write_text(f"_base_ = 'mmdet::_base_/models/{name}.py'\n", encoding="utf-8")
    model = Config.fromfile(path).model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    for part in (model.get("rpn_head"), model.get("bbox_head")):
        if part:
            part.update(in_channels=16, feat_channels=16)
    if "roi_head" in model:
        for name in ("bbox_roi_extractor", "mask_roi_extractor"):
            model.roi_head[name].out_channels = 16
        model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16)
        model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16)
        model.test_cfg.rcnn.score_thr = 0.0
    else:
        model.test_cfg.score_thr = 0.0
    return model


def scene():
    """One image and two objects on it, as mmdet takes them."""
    masks = np.zeros((2, 128, 128), dtype=np.uint8)
    masks[0, 5:35, 5:30], masks[1, 15:45, 20:50] = 1, 1
    sample = DetDataSample(
        metainfo={"img_shape": (128, 128), "ori_shape": (128, 128), "scale_factor": (1.0, 1.0)},
        gt_instances=InstanceData(
            bboxes=torch.tensor([[5.0, 5, 30, 35], [20, 15, 50, 45]]),
            labels=torch.tensor([1, 3]),
            masks=BitmapMasks(masks, 128, 128),
        ),
    )
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 128, 128), dtype=torch.uint8, generator=generator)
    return {"inputs": [image], "data_samples": [sample]}


@pytest.mark.parametrize("name", ["mask-rcnn_r50_fpn", "retinanet_r50_fpn"])
def test_mmdets_detectors_train_and_predict(name, tmp_path):
    init_default_scope("mmdet")
    torch.manual_seed(0)
    settings = small(name, tmp_path)
    model = MODELS.build(settings)
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = model(**model.data_preprocessor(scene(), training=True), mode="loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        for parameter in model.neck.parameters():
            assert parameter.grad.isfinite().all()
        assert model.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        (result,) = model(**model.data_preprocessor(scene()), mode="predict")
    found = result.pred_instances
    assert len(found) == 100  # the most that the configuration gives
    assert (found.scores[:-1] >= found.scores[1:]).all()
    if name == "mask-rcnn_r50_fpn":
        assert found.masks.shape == (100, 128, 128)
    threshold = settings.test_cfg.get("rcnn", settings.test_cfg).nms.iou_threshold
    for label in found.labels.unique():
        boxes, scores = found.bboxes[found.labels == label], found.scores[found.labels == label]
        assert len(reference_nms(boxes.numpy(), scores.numpy(), threshold + 1e-4, 0)) == len(boxes)
