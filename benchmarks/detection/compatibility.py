"""What mmengine's own files need so that this project's rules hold for them."""

from benchmarks.detection import mmdetection  # noqa: F401 (before mmengine)

# isort: split
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from manifold.files import write_atomic, write_text
from manifold.image_files import read_image
from manifold.seeds import derive, reseed


class WholeFiles(LocalBackend):
    """Write checkpoints and predictions aside, then rename; mmengine's own leaves halves.

    A file cut by a full disk would take the space that the next start needs.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Raises:
            UserError: the disk is full.
        """
        write_atomic(Path(filepath), lambda partial: partial.write_bytes(obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text.

        Raises:
            UserError: the disk is full.
        """
        write_atomic(Path(filepath), lambda partial: partial.write_text(obj, encoding))


# In the place of the one for paths of this machine, whoever asks for it.
register_backend("local", WholeFiles, force=True, prefixes="")


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Keep checkpoints free of code, so that a training is resumed by ``weights_only=True``.

    mmengine stores the logged values as objects of its class HistoryBuffer, which pickle the
    functions of their statistics: torch refuses them, and to allow them would be to allow
    ``getattr``. They are stored as tensors here, and NumPy's numbers as Python's. A checkpoint's
    ``meta['config']``, which mmengine would run as Python, is dropped when one is loaded.

    The name of the last checkpoint is not written aside: a training that was killed while the file
    was empty finds the newest checkpoint, which was complete before, by its time.
    """

    def before_run(self, runner: Runner) -> None:
        last = Path(runner.work_dir) / "last_checkpoint"
        if last.is_file() and not last.read_text(encoding="utf-8"):
            newest = max(last.parent.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
            write_text(last, str(newest))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        hub = checkpoint["message_hub"]
        hub["log_scalars"] = {
            name: [torch.as_tensor(values) for values in buffer.data]
            for name, buffer in hub["log_scalars"].items()
        }
        hub["runtime_info"] = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in hub["runtime_info"].items()
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint.get("meta", {}).pop("config", None)
        hub = checkpoint.get("message_hub", {})  # weights from elsewhere have none
        hub["log_scalars"] = {
            name: HistoryBuffer(*(column.tolist() for column in columns))
            for name, columns in hub.get("log_scalars", {}).items()
        }


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Give every epoch a seed of its own, so that a resumed training goes on as if never cut.

    mmengine seeds once, at the start, and its checkpoints hold no generator's state; flips of the
    images and samples of the regions would be other ones after a resume. Data workers are seeded by
    mmengine: what is said here holds for data that the process itself loads.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_train_epoch(self, runner: Runner) -> None:
        reseed(derive(self.seed, "detection epoch", runner.epoch, runner.rank))


@TRANSFORMS.register_module(name="LoadImageFromFile")
class ReadImage(LoadImageFromFile):
    """Read images as the whole project does; OpenCV would show hidden colours and dark 16 bits."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``: bytes (H, W), or (H, W, 3) as blue, green, red, the order of mmdet."""
        if self.color_type == "grayscale":
            pixels = np.asarray(read_image(results["img_path"], "L"))
        else:
            pixels = np.asarray(read_image(results["img_path"], "RGB"))[..., ::-1]
        pixels = np.ascontiguousarray(pixels, dtype=np.float32 if self.to_float32 else np.uint8)
        return results | {
            "img": pixels,
            "img_shape": pixels.shape[:2],
            "ori_shape": pixels.shape[:2],
        }
