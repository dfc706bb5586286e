"""A segmenter on its way from the first step to the last, and what must survive a kill."""

import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.backbones import maps_of, open_network
from benchmarks.segmentation import FROZEN
from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.segmentation.data import Examples
from benchmarks.segmentation.measure import batches_of
from benchmarks.segmentation.networks import LinearHead, Segmenter, last_tokens
from benchmarks.segmentation.settings import IGNORED, FineTuningRecipe
from manifold.errors import UserError, telling_of_a_full_disk
from manifold.models import read_state, save_state
from manifold.seeds import derive, reseed
from manifold.settings.made_by import is_outdated_job
from manifold.settings.sources import job_hash
from manifold.training.cohort import create_optimizer, create_scheduler
from manifold.training.data import TrainingBatches
from manifold.training.progress import progress

JOB = "benchmarks.segmentation.train"  # whose sources make a segmenter


class Tokens(Dataset):
    """The frozen tokens of the training images, with their classes: ``tokens[i, seed]``."""

    def __init__(self, tokens: np.ndarray, examples: Examples):
        self.tokens, self.examples = tokens, examples

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[Tensor, Tensor]:
        position, _ = key
        classes = self.examples.fitted_classes(self.examples.classes(position))
        return torch.from_numpy(np.array(self.tokens[position])), classes


def build(
    cell: SegmenterCell, classes: int, device: torch.device
) -> tuple[nn.Module | None, nn.Module]:
    """The frozen network, of the protocol that has one, and what is trained.

    What is new in it is drawn alike for every backbone of a seed.

    Raises:
        UserError: the weights are missing, damaged or of another network.
    """
    study, recipe = cell.study, cell.study.recipe_of(cell.protocol)
    weights, patch_embedding = study.weights(cell.method, cell.seed)
    network = open_network(
        cell.model,
        cell.experiment.data.image_shape,
        weights,
        study.settings.data.channels,
        recipe.drop_path if isinstance(recipe, FineTuningRecipe) else 0.0,
        patch_embedding,
    )
    return with_head(cell, network, classes, device)


def with_head(
    cell: SegmenterCell, network: nn.Module, classes: int, device: torch.device
) -> tuple[nn.Module | None, nn.Module]:
    """``build``, on a network that is there."""
    study = cell.study
    _, strides, widths = maps_of(network)
    reseed(derive(cell.seed, "segmentation", cell.protocol, "head"))
    if cell.protocol == FROZEN:
        size = tuple(study.settings.data.size[::-1])
        head = LinearHead(widths[-1], classes, strides[-1], size)
        return network.eval().requires_grad_(False).to(device), head.to(device)
    return None, Segmenter(network, classes, study.settings.fine_tuned.decoder).to(device)


def _reserve(path: Path) -> None:
    """Take the disk's space for a whole sparse file: a mapped page without any kills the process.

    Raises:
        OSError: the disk is full.
    """
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


class Training:
    """The training of one segmenter.

    Args:
        frozen, trained: as ``build`` gives them.
        examples: of the training split.
        digest: of the configuration.
    """

    def __init__(
        self,
        cell: SegmenterCell,
        frozen: nn.Module | None,
        trained: nn.Module,
        examples: Examples,
        digest: str,
        device: torch.device,
    ):
        self.cell, self.frozen, self.trained, self.digest = cell, frozen, trained, digest
        self.recipe = cell.study.recipe_of(cell.protocol)
        self.device = device
        self.examples = examples
        if isinstance(self.recipe, FineTuningRecipe):
            examples.augmentation = self.recipe
        self.steps_per_epoch = len(examples) // self.recipe.batch_size
        optimizer, machine = self.recipe.optimizer, cell.experiment.machine
        self.optimizer = create_optimizer(trained, optimizer, machine.fused_optimizer)
        self.scheduler = create_scheduler(
            self.optimizer, self.recipe.schedule, self.recipe.epochs, self.steps_per_epoch
        )
        self.source_hash = job_hash(JOB)
        self.step = 0
        self.loss = 0.0  # the sum over the epoch's steps
        self.rows: list[dict[str, float]] = []
        self.wall_seconds = 0.0
        self._clock = time.monotonic()

    def run(self) -> None:
        """Train to the end of the last epoch, from wherever the training stands."""
        inputs = self.examples if self.frozen is None else self._frozen_tokens()
        self.trained.train()
        shown = progress(
            what=self.words,
            unit="step",
            total=self.recipe.epochs * self.steps_per_epoch,
            initial=self.step,
        )
        while self.step < self.recipe.epochs * self.steps_per_epoch:
            for images, classes in self._loader(inputs):
                self._step(images.to(self.device), classes.to(self.device))
                shown.update()
                if self._is_save_due():
                    self.save()
        shown.close()
        self._read_clock()

    @property
    def words(self) -> str:
        return f"{self.cell.protocol} {self.cell.method}, seed {self.cell.seed}"

    def _loader(self, inputs: Dataset) -> DataLoader:
        """The batches of the epoch that are left."""
        epoch, first = divmod(self.step, self.steps_per_epoch)
        batches = TrainingBatches(
            length=len(self.examples),
            batch_size=self.recipe.batch_size,
            seed=derive(self.cell.seed, "segmentation", self.cell.protocol),
            epoch=epoch,
            first_batch=first,
        )
        workers = self.cell.experiment.machine.workers
        return DataLoader(
            inputs,
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
        )

    def _frozen_tokens(self) -> Tokens:
        """The tokens of every training image, once, in a file that is mapped into memory."""
        path = self.cell.state.with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        tokens = None
        with telling_of_a_full_disk(path):
            for positions, images, _ in batches_of(self.cell, self.examples):
                own = last_tokens(self.frozen, images.to(self.device)).cpu().numpy()
                if tokens is None:
                    shape = (len(self.examples), *own.shape[1:])
                    tokens = np.lib.format.open_memmap(path, "w+", np.float32, shape)
                    _reserve(path)
                tokens[positions] = own
        return Tokens(tokens, self.examples)

    def _step(self, inputs: Tensor, classes: Tensor) -> None:
        """One step: inputs are images or tokens, classes (B, H, W) with ``IGNORED``.

        Raises:
            UserError: the loss is not finite.
        """
        torch.manual_seed(derive(self.cell.seed, "segmentation", "forward", self.step))
        self._set_learning_rate()
        logits = self.trained(inputs)
        total = F.cross_entropy(logits, classes, ignore_index=IGNORED, reduction="sum")
        loss = total / (classes != IGNORED).sum().clamp(min=1)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"{self.words}: the loss of step {self.step + 1} is {value}; lower "
                f"{self.where}.optimizer.learning_rate or set its clip_norm"
            )
        loss.backward()
        if (norm := self.recipe.optimizer.clip_norm) is not None:
            nn.utils.clip_grad_norm_(self.trained.parameters(), norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss += value
        self.step += 1
        if self.step % self.steps_per_epoch == 0:
            rate = self.optimizer.param_groups[0]["lr"]
            row = {"epoch": self.step // self.steps_per_epoch, "step": self.step}
            self.rows.append(
                {**row, "learning_rate": rate, "loss": self.loss / self.steps_per_epoch}
            )
            self.loss = 0.0

    @property
    def where(self) -> str:
        """The section of the recipe."""
        return f"segmentation.{self.cell.protocol.replace('-', '_')}"

    def _set_learning_rate(self) -> None:
        schedule = self.recipe.schedule
        if schedule.per == "step":
            self.scheduler.step_update(self.step)
        else:
            epoch = self.step // self.steps_per_epoch
            self.scheduler.step(max(0, epoch - int(schedule.lags_one_epoch)))

    # ---- surviving a kill ------------------------------------------------------------------

    def _is_save_due(self) -> bool:
        elapsed = time.monotonic() - self._clock
        return elapsed >= self.cell.experiment.machine.checkpoint_seconds

    def _read_clock(self) -> None:
        now = time.monotonic()
        self.wall_seconds += now - self._clock
        self._clock = now

    def save(self) -> None:
        self._read_clock()
        state = {
            "fingerprint": self.digest,
            "source_hash": self.source_hash,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "loss": self.loss,
            "rows": self.rows,
            "wall_seconds": self.wall_seconds,
        }
        save_state(state, self.cell.state)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one of this very configuration.

        Raises:
            UserError: the checkpoint is damaged.
        """
        path = self.cell.state
        if not path.is_file():
            return
        state = read_state(path, self.device, ("fingerprint", "source_hash"))
        if state["fingerprint"] != self.digest:
            print(f"{path} is of another configuration; starting anew", file=sys.stderr)
            return
        if is_outdated_job(self.cell.experiment, JOB, state["source_hash"]):
            print(f"{path} was begun by other code; starting anew", file=sys.stderr)
            return
        self.source_hash = state["source_hash"]
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.loss, self.rows = state["step"], state["loss"], state["rows"]
        self.wall_seconds = state["wall_seconds"]
        print(f"resuming {path} at step {self.step}", file=sys.stderr)
