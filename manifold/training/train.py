"""Train a cohort: ``python -m manifold train --config scale=mini --methods soft_kd --seed 0``.

The same command is what the workflow's rules call, under torchrun where there are several
processes. It resumes from its last checkpoint, and cells that are complete are left alone.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
from timm.data.loader import PrefetchLoader
from torch import nn
from torch.utils.data import DataLoader

from manifold import ranks
from manifold.errors import UserError
from manifold.files import csv_text, sha256, write_text
from manifold.models import is_finite, read_state, save_state, save_weights
from manifold.settings import CELL_FILES, TRAIN_TEACHER, suggest
from manifold.settings.data import epoch_of
from manifold.settings.data_files import files_digest, is_other
from manifold.settings.recipe import check_warmup
from manifold.settings.sources import training_hash
from manifold.training import command, description, records
from manifold.training.alone import alone_on
from manifold.training.cells import Cell
from manifold.training.cohort import Member, cohort_name
from manifold.training.data import (
    Images,
    Mixer,
    Splits,
    TrainingBatches,
    data_digest,
    load_splits,
    own_shards,
    prefetched,
    train_transform,
)
from manifold.training.evaluation import evaluate_split
from manifold.training.kept import is_kept
from manifold.training.progress import progress
from manifold.training.runs import (
    Setting,
    build_cohort,
    passes_per_step,
    steps_per_epoch,
    student_setting,
    teacher_setting,
)


class Training:
    """A cohort on its way from the first step to the last, and what must survive a kill."""

    def __init__(self, setting: Setting, cells: list[Cell], splits: Splits):
        self.setting = setting
        self.cells = cells
        self.splits = splits
        self.steps_per_epoch = steps_per_epoch(
            len(splits.train), setting.experiment.data, setting.recipe, setting.recipe_name
        )
        self.passes = passes_per_step(setting)
        self.shards = own_shards(setting.recipe.shards, setting.ranks)
        self.cohort = build_cohort(setting, cells, len(splits.classes), self.steps_per_epoch)
        # Of the data and sources that this process reads, before anyone changes them.
        self.data_digest = data_digest(setting.experiment, splits)
        self.source_hashes = {cell.method: cell.source_hash for cell in cells}
        self.training_hash = training_hash()
        self.fingerprints = {cell.method: cell.fingerprint for cell in cells}
        self.mixer = Mixer(setting.recipe, len(splits.classes), setting.seed)
        self.train_images = splits.train.transformed(
            train_transform(setting.experiment.data, setting.recipe)
        )
        self.step = 0
        self.rows: dict[str, list[dict]] = {cell.method: [] for cell in cells}
        self.best: dict[str, dict] = {}
        self.duplicates = 0.0
        self.wall_seconds = 0.0
        self._clock = time.monotonic()

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    def run(self) -> None:
        """Train to the end of the last epoch, from wherever the training stands."""
        while self.epoch < self.setting.epochs:
            self._run_epoch()
            self._validate()
            self.save()

    def _run_epoch(self) -> None:
        batches, loader = self._loader()
        epoch = f"epoch {self.epoch + 1}/{self.setting.epochs}"
        shown = progress(
            loader,
            what=f"seed {self.setting.seed}, {cohort_name(list(self.rows))} [{epoch}]",
            unit="step",
            total=self.steps_per_epoch,
            initial=batches.first_batch,
            disable=not self.setting.ranks.is_first,
        )
        for batch, (images, labels) in enumerate(shown, start=batches.first_batch):
            images, targets = self.mixer(images, labels, self.step, self.shards)
            if self.setting.experiment.machine.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            self.cohort.step(images, targets, self.step, self.shards, self.passes)
            self.duplicates += batches.duplicate_share(batch, self.setting.recipe.relational_batch)
            self.step += 1
            # The end of an epoch is saved by run(), together with its validation.
            if self._is_save_due() and self.step % self.steps_per_epoch:
                self.save()

    def _loader(self) -> tuple[TrainingBatches, PrefetchLoader]:
        setting, recipe = self.setting, self.setting.recipe
        batches = TrainingBatches(
            length=len(self.train_images),
            batch_size=recipe.batch_size,
            seed=setting.seed,
            epoch=self.epoch,
            first_batch=self.step % self.steps_per_epoch,
            shards=recipe.shards,
            repeats=recipe.repeats,
            ranks=setting.ranks,
            images=epoch_of(len(self.train_images), setting.experiment.data),
        )
        loader = DataLoader(
            self.train_images,
            batch_sampler=batches,
            num_workers=setting.experiment.machine.workers,
            pin_memory=setting.device.type == "cuda",
        )
        return batches, prefetched(loader, setting.device, setting.experiment.data.channels)

    def _validate(self) -> None:
        accuracies: list[float | None] = [None] * len(self.cohort.members)
        if len(self.splits.validation):
            accuracies = self.evaluate(
                [member.distiller.get_eval_model() for member in self.cohort.members],
                self.splits.validation,
                "validation",
            )
        for member, top1 in zip(self.cohort.members, accuracies, strict=True):
            row = {"epoch": self.epoch, "step": self.step, "learning_rate": member.learning_rate}
            row |= {term: total / self.steps_per_epoch for term, total in member.totals.items()}
            row |= {records.SHARE + term: share for term, share in member.mean_shares().items()}
            row |= {"validation_top1": top1, "images_per_second": self._images_per_second(member)}
            self.rows[member.name].append(row)
            best = self.best.get(member.name)
            if top1 is not None and (best is None or top1 > best["top1"]):
                weights = member.distiller.get_eval_model().state_dict()
                self.best[member.name] = {
                    "top1": top1,
                    "epoch": self.epoch,
                    "weights": {key: value.clone() for key, value in weights.items()},
                }
            member.end_epoch()
        self.cohort.teacher_seconds = 0.0

    def _images_per_second(self, member: Member) -> float:
        """Training throughput of the epoch as if the member had run alone, without the data."""
        seconds = member.seconds
        if member.distiller.uses_teacher:
            seconds += self.cohort.teacher_seconds
        return self.steps_per_epoch * self.setting.recipe.batch_size / seconds

    def evaluate(self, models: list[nn.Module], images: Images, what: str) -> list[float]:
        return evaluate_split(
            self.setting.experiment,
            models,
            images,
            what,
            device=self.setting.device,
            ranks=self.setting.ranks,
        )

    # ---- surviving a kill ------------------------------------------------------------------

    def _is_save_due(self) -> bool:
        elapsed = time.monotonic() - self._clock
        return elapsed >= self.setting.experiment.machine.checkpoint_seconds

    def _read_clock(self) -> None:
        now = time.monotonic()
        self.wall_seconds += now - self._clock
        self._clock = now

    def save(self) -> None:
        """Write the checkpoint: all ranks hold the same, so the first one's is everyone's."""
        self._read_clock()
        if not self.setting.ranks.is_first:
            return
        state = {
            "fingerprints": self.fingerprints,
            "source_hashes": self.source_hashes,
            "training_hash": self.training_hash,
            "data_digest": self.data_digest,
            "cohort": self.cohort.state(),
            "step": self.step,
            "rows": self.rows,
            "best": self.best,
            "duplicates": self.duplicates,
            "wall_seconds": self.wall_seconds,
        }
        save_state(state, self.setting.state)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one of this very configuration.

        Raises:
            UserError: the checkpoint is damaged.
        """
        path = self.setting.state
        if not path.is_file():
            return
        state = read_state(path, self.setting.device, ("fingerprints", "source_hashes"))
        # A kill between two cells leaves a checkpoint of more members than are still missing.
        if not self.fingerprints.items() <= state["fingerprints"].items():
            print(f"{path} is of another configuration; starting anew", file=sys.stderr)
            return
        experiment, made_by = self.setting.experiment, state["source_hashes"]
        is_of_old_code = any(
            cell.is_outdated(experiment, made_by[cell.method]) for cell in self.cells
        )
        if is_of_old_code or is_other(state.get("data_digest"), self.data_digest):
            other = "by other code" if is_of_old_code else "on other data"
            print(f"{path} was begun {other}; starting anew", file=sys.stderr)
            return
        self.cohort.load_state(state["cohort"])
        # Those of the first start: the sources may have been edited since.
        self.source_hashes = {name: made_by[name] for name in self.source_hashes}
        self.training_hash = state["training_hash"]
        self.step = state["step"]
        self.rows = {name: state["rows"][name] for name in self.rows}
        self.best = {name: best for name, best in state["best"].items() if name in self.rows}
        self.duplicates = state["duplicates"]
        self.wall_seconds = state["wall_seconds"]
        if self.setting.ranks.is_first:
            print(f"resuming {path} at step {self.step}", file=sys.stderr)

    # ---- results ---------------------------------------------------------------------------

    def finish(self) -> None:
        """Evaluate on the test split and write the cells; the checkpoint goes last.

        A scale that exists for choices evaluates on the validation split once more instead.
        """
        images = getattr(self.splits, self.setting.experiment.evaluation_split)
        members = self.cohort.members
        best_epochs = {name: best["epoch"] for name, best in self.best.items()}
        for member in members:
            weights = member.distiller.get_eval_model().state_dict()
            if broken := [name for name, value in weights.items() if not is_finite(value)]:
                raise UserError(
                    f"method {member.name!r}: {broken[0]} is not finite after the last step (seed "
                    f"{self.setting.seed}); lower the learning rate or clip gradients"
                )
        last = [member.distiller.get_eval_model() for member in members]
        ema = [member.distiller.get_eval_model(ema=True) for member in members]
        top1 = self.evaluate(last, images, "last epoch")
        ema_top1 = self.evaluate(ema, images, "EMA")
        best_top1 = self._evaluate_best(images, top1)
        self._read_clock()
        if not self.setting.ranks.is_first:
            return
        for index, (cell, member) in enumerate(zip(self.cells, members, strict=True)):
            result = {
                "top1": top1[index],
                "best_top1": best_top1[index],
                "best_epoch": best_epochs.get(member.name),
                "ema_top1": ema_top1[index],
                "split": self.setting.experiment.evaluation_split,
                "images": len(images),
            }
            self._write_cell(cell, member, result)
        self.setting.state.unlink(missing_ok=True)

    def _evaluate_best(self, images: Images, last_top1: list[float]) -> list[float | None]:
        """Accuracy of the weights of the epoch with the best validation accuracy, if any has."""
        if not self.best:
            return [None] * len(last_top1)
        accuracies = []
        for member, top1 in zip(self.cohort.members, last_top1, strict=True):
            best = self.best[member.name]
            if best["epoch"] != self.setting.epochs:
                model = member.distiller.get_eval_model()
                last = {key: value.clone() for key, value in model.state_dict().items()}
                model.load_state_dict(best["weights"])
                (top1,) = self.evaluate([model], images, "best epoch")
                model.load_state_dict(last)
            accuracies.append(top1)
        return accuracies

    def _write_cell(self, cell: Cell, member: Member, result: dict) -> None:
        weights, metrics, run = (cell.directory / name for name in CELL_FILES)
        save_weights(member.distiller.get_eval_model(), weights)
        write_text(metrics, csv_text(self.rows[member.name]))
        record = {
            "fingerprint": cell.fingerprint,
            "configuration": cell.identity,
            "source_hash": self.source_hashes[cell.method],
            "pair": self.setting.pair_name,
            "recipe_name": self.setting.recipe_name,
            "method": cell.method,
            "epochs": self.setting.epochs,
            "seed": self.setting.seed,
            "result": result,
            "images_seen": self.step * self.setting.recipe.batch_size,
            "images_per_second": self.rows[member.name][-1]["images_per_second"],
            "duplicate_share": self.duplicates / self.step,  # of the relational batch
            "processes": self.setting.ranks.count,
            "passes": self.passes,
            "wall_seconds": self.wall_seconds,
            "cohort": [member.name for member in self.cohort.members],
            "splits": {
                name: len(getattr(self.splits, name)) for name in ("train", "validation", "test")
            },
            "classes": self.splits.classes,
            "training_hash": self.training_hash,
            "data_digest": self.data_digest,
            "resolved": description.describe_member(
                member, self.mixer, self.train_images.transform
            ),
            "teacher_sha256": self.cohort.teacher and self.cohort.teacher.sha256,
            "environment": description.describe_environment(self.setting.device)
            | self.setting.manner,
            "files": {path.name: sha256(path) for path in (weights, metrics)},
        }
        records.write_run(run, record)


def train(setting: Setting, cells: list[Cell]) -> None:
    """Train the cells that are not complete, or not of this code or data; write their files.

    What another process is training is waited for.
    """
    with alone_on([cell.directory for cell in cells]):
        files = files_digest(setting.experiment.data, setting.experiment.results)
        missing = [cell for cell in cells if not is_kept(setting.experiment, cell, files)]
        if setting.ranks.count > 1:
            dist.barrier()  # all have looked before the first one writes
        for cell in cells:
            if cell not in missing and setting.ranks.is_first:
                print(f"{cell.directory} is complete", file=sys.stderr)
                for name in CELL_FILES:  # up to date with a teacher that was only touched
                    os.utime(cell.directory / name)
        if not missing:
            if setting.ranks.is_first:
                setting.state.unlink(missing_ok=True)
            return
        check_warmup(setting.recipe_name, setting.recipe, setting.epochs)
        training = Training(setting, missing, load_splits(setting.experiment.data))
        training.resume()
        training.run()
        training.finish()


def main() -> None:
    parser = command.parser("manifold train", __doc__)
    parser.add_argument("--pair", help="default: table1's")
    parser.add_argument("--recipe", help="default: table1's")
    parser.add_argument("--epochs", type=int, help="default: table1's")
    parser.add_argument("--methods", nargs="+", help="default: all of the scale's")
    parser.add_argument("--seed", type=int, help="default: the scale's first")
    parser.add_argument("--teacher", action="store_true", help="train the pair's teacher instead")
    options = parser.parse_args()
    experiment = command.experiment(options)
    table = experiment.table1
    if table is None and None in (options.pair, options.recipe, options.epochs):
        raise UserError("table1 is null, so give --pair, --recipe and --epochs")
    pair = options.pair or table.pairs[0]
    recipe = options.recipe or table.recipe
    epochs = table.epochs if options.epochs is None else options.epochs
    methods = options.methods
    seed = experiment.seeds[0] if options.seed is None else options.seed
    for key, name, known in (
        ("--pair", pair, experiment.pairs),
        ("--recipe", recipe, experiment.recipes),
        *(("--methods", method, experiment.method_definitions) for method in methods or []),
    ):
        if name not in known:
            raise UserError(f"{key}: unknown {name!r}.{suggest(name, known)}")
    if epochs < 1:
        raise UserError(f"--epochs must be at least 1, got {epochs}")
    processes = ranks.start(experiment.machine.device)
    if options.teacher:
        if experiment.pairs[pair].teacher.weights != TRAIN_TEACHER:
            raise UserError(
                f"pairs.{pair}.teacher.weights is a file; set it to {TRAIN_TEACHER!r} to train one"
            )
        train(*teacher_setting(experiment, pair, processes))
    else:
        methods = methods or experiment.methods_of(pair)
        train(*student_setting(experiment, pair, recipe, epochs, methods, seed, processes))
    if dist.is_initialized():
        dist.destroy_process_group()
