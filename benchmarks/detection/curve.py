"""AP on the validation images, epoch by epoch, while a detector is trained."""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import json
from pathlib import Path
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import HOOKS, METRICS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmarks.detection.average_precision import average_precision
from benchmarks.detection.configuration import NEVER
from manifold import ranks
from manifold.files import write_text

CURVE_FILE = "validation.json"


def curve_hook(settings: Config, work: Path) -> list[dict[str, Any]]:
    """The hook's own configuration, where there are validation images.

    ``settings`` is told where their predictions are to stand.
    """
    if settings.train_cfg.get("val_begin") != NEVER:
        return []
    settings.val_evaluator.outfile_prefix = str(work / "validation")
    return [dict(type="CurveHook", path=str(work / CURVE_FILE))]


@METRICS.register_module()
class ValidationAP(CocoMetric):
    """The AP of the predictions that mmdet has written, unrounded as in the table.

    Args:
        ann_file, outfile_prefix, more: as CocoMetric is given them, with ``format_only``.
    """

    def __init__(self, ann_file: str, outfile_prefix: str, **more: Any):
        super().__init__(ann_file=ann_file, outfile_prefix=outfile_prefix, **more)
        self.annotations = Path(ann_file)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return kind of AP: percent."""
        super().compute_metrics(results)
        files = {kind: Path(f"{self.outfile_prefix}.{kind}.json") for kind in self.metrics}
        return {
            kind: average_precision(self.annotations, file, kind)["ap"]
            for kind, file in files.items()
        }


@HOOKS.register_module()
class CurveHook(Hook):
    """Write down the AP on the validation images after an epoch, before the epoch's checkpoint.

    mmengine's own validation comes after the checkpoint: a training that was killed in between
    would go on without it. ``train_cfg.val_interval`` says after how many epochs; the last one is
    always among them. Weights do not depend on it, since every epoch has a seed of its own.

    Args:
        path: of a JSON list of {"epoch": counted from 1, kind of AP: percent}.
    """

    priority = "LOW"  # that of checkpoints is VERY_LOW

    def __init__(self, path: str):
        self.path = Path(path)

    def after_train_epoch(self, runner: Runner) -> None:
        loop, epoch = runner.train_loop, runner.epoch + 1
        if epoch % loop.val_interval and epoch != loop.max_epochs:
            return
        measured = runner.val_loop.run()
        if not ranks.is_first():
            return
        found = {name.split("/")[-1]: ap for name, ap in measured.items()}  # of "coco/bbox"
        known = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else []
        rows = [row for row in known if row["epoch"] < epoch]  # others were taken without it
        write_text(self.path, json.dumps([*rows, {"epoch": epoch, **found}]))
