"""AP on the validation images, epoch by epoch, while a detector is trained."""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmdet)

# isort: split
import json
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
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
    evaluator = settings.val_evaluator
    evaluator.outfile_prefix = str(work / "validation")
    given = {key: evaluator[key] for key in ("ann_file", "metric", "outfile_prefix")}
    return [dict(type="CurveHook", path=str(work / CURVE_FILE), **given)]


@HOOKS.register_module()
class CurveHook(Hook):
    """Write down the AP on the validation images after an epoch, before the epoch's checkpoint.

    mmengine's own validation comes after the checkpoint: a training that was killed in between
    would go on without it. ``train_cfg.val_interval`` says after how many epochs; the last one is
    always among them. Weights do not depend on it, since every epoch has a seed of its own.

    Args:
        path: of a JSON list of {"epoch": counted from 1, kind of AP: percent}.
        ann_file, metric, outfile_prefix: as mmdet's CocoMetric is given them.
    """

    priority = "LOW"  # that of checkpoints is VERY_LOW

    def __init__(self, path: str, ann_file: str, metric: list[str], outfile_prefix: str):
        self.path, self.annotations = Path(path), Path(ann_file)
        self.predictions = {kind: Path(f"{outfile_prefix}.{kind}.json") for kind in metric}

    def after_train_epoch(self, runner: Runner) -> None:
        loop, epoch = runner.train_loop, runner.epoch + 1
        if epoch % loop.val_interval and epoch != loop.max_epochs:
            return
        runner.val_loop.run()
        if not ranks.is_first():
            return
        known = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else []
        found = {
            kind: average_precision(self.annotations, predictions, kind)["ap"]
            for kind, predictions in self.predictions.items()
        }
        rows = [row for row in known if row["epoch"] < epoch]  # others were taken without it
        write_text(self.path, json.dumps([*rows, {"epoch": epoch, **found}]))
