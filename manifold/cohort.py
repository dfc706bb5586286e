"""Several distillers on one stream of batches and one teacher pass."""

import math
import time

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor

from manifold.config import Optimizer, Recipe
from manifold.distiller import Distiller, FrozenTeacher
from manifold.errors import UserError
from manifold.seeds import derive


class Member:
    """A distiller with the optimizer, schedule, EMA and totals that are its own.

    A member draws from streams that follow from (seed, step) and its name alone, so its weights
    do not depend on the company that it is trained in.
    """

    def __init__(
        self,
        name: str,
        distiller: Distiller,
        recipe: Recipe,
        *,
        seed: int,
        epochs: int,
        steps_per_epoch: int,
    ):
        self.name = name
        self.distiller = distiller
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.clip_norm = recipe.optimizer.clip_norm
        self.optimizer = _create_optimizer(distiller, recipe.optimizer)
        self.per_step = recipe.schedule.per == "step"
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched=recipe.schedule.name,
            num_epochs=epochs,
            warmup_epochs=recipe.schedule.warmup_epochs,
            warmup_lr=recipe.schedule.warmup_learning_rate,
            min_lr=recipe.schedule.minimum_learning_rate,
            step_on_epochs=not self.per_step,
            updates_per_epoch=steps_per_epoch,
        )
        distiller.setup_ema(decay=recipe.ema_decay).requires_grad_(False)
        self.totals: dict[str, float] = {}
        self.seconds = 0.0

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def step(self, images: Tensor, targets: Tensor, step: int) -> None:
        """One optimizer step on one batch: the whole of training but for the data."""
        started = time.perf_counter()
        torch.manual_seed(derive(self.seed, "forward", step))
        self.distiller.sampling.manual_seed(derive(self.seed, "sampling", self.name, step))
        self._set_learning_rate(step)
        self.distiller.train()

        losses = self.distiller(images, targets)
        losses.pop("output")
        self._accumulate(losses, step)
        losses["loss"].backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._trained_parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.distiller.update_ema()
        self.seconds += time.perf_counter() - started

    def _set_learning_rate(self, step: int) -> None:
        if self.per_step:
            self.scheduler.step_update(step)
        else:
            self.scheduler.step(step // self.steps_per_epoch)

    def _trained_parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _accumulate(self, losses: dict[str, Tensor], step: int) -> None:
        """Add the terms to the epoch's totals.

        Raises:
            UserError: a term is not finite; names method, epoch, step and term.
        """
        for term in sorted(losses, key="loss".__eq__):  # the sum last: a term is the culprit
            value = losses[term].item()
            if not math.isfinite(value):
                epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
                raise UserError(
                    f"method {self.name!r}: term {term!r} is {value} at epoch {epoch + 1}, step "
                    f"{step_in_epoch + 1} of {self.steps_per_epoch} (seed {self.seed}); lower the "
                    "learning rate or the term's weight, or clip gradients (optimizer.clip_norm)"
                )
            self.totals[term] = self.totals.get(term, 0.0) + value

    def state(self) -> dict:
        return {
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "totals": self.totals,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict) -> None:
        self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.totals = state["totals"]
        self.seconds = state["seconds"]


def _create_optimizer(distiller: Distiller, optimizer: Optimizer) -> torch.optim.Optimizer:
    """timm's optimizer over everything that the method trains, 1-D parameters undecayed.

    Raises:
        UserError: timm does not know it, or refuses the numbers.
    """
    try:
        return create_optimizer_v2(
            distiller,
            opt=optimizer.name,
            lr=optimizer.learning_rate,
            weight_decay=optimizer.weight_decay,
            eps=optimizer.epsilon,
            betas=tuple(optimizer.betas),
        )
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise UserError(f"the recipe's optimizer {vars(optimizer)} is refused: {error}") from error


class Cohort:
    """Members that share batches and the teacher's outputs, and nothing else.

    The teacher runs once a batch for all of them; they go forward and backward one after another,
    so that memory holds the graph of one. What a member learns is bit-identical to what it learns
    alone with the same seed.
    """

    def __init__(self, members: list[Member], teacher: FrozenTeacher | None):
        self.members = members
        self.teacher = teacher
        self.teacher_seconds = 0.0

    def step(self, images: Tensor, targets: Tensor, step: int) -> None:
        """Train every member on one batch: images (B, C, H, W), targets (B, classes)."""
        if self.teacher is not None:
            started = time.perf_counter()
            self.teacher(images)  # kept, and shared by every member that asks with these images
            self.teacher_seconds += time.perf_counter() - started
        for member in self.members:
            member.step(images, targets, step)

    def state(self) -> dict:
        return {
            "members": {member.name: member.state() for member in self.members},
            "teacher_seconds": self.teacher_seconds,
        }

    def load_state(self, state: dict) -> None:
        self.teacher_seconds = state["teacher_seconds"]
        for member in self.members:
            member.load_state(state["members"][member.name])
