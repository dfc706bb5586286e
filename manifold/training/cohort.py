"""Several distillers on one stream of batches and one teacher pass."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manifold.distiller import Distiller, FrozenTeacher
from manifold.errors import UserError, told
from manifold.ranks import ALONE, Ranks
from manifold.seeds import derive
from manifold.settings import Optimizer, Recipe, suggest
from manifold.settings.recipe import Schedule

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Member:
    """A distiller with the optimizer, schedule, EMA and totals that are its own.

    A member draws from streams that follow from (seed, step, shard) and its name alone, so its
    weights do not depend on the company that it is trained in.
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
        ranks: Ranks = ALONE,
        fused_optimizer: bool = False,
        gradient_steps: int | None = None,
    ):
        self.name = name
        self.distiller = distiller
        self.seed = seed
        self.ranks = ranks
        self.steps_per_epoch = steps_per_epoch
        self.gradient_steps = gradient_steps
        self.precision = PRECISIONS[recipe.precision]
        self.relational_batch = recipe.relational_batch
        self.clip_norm = recipe.optimizer.clip_norm
        self.optimizer = create_optimizer(distiller, recipe.optimizer, fused_optimizer)
        self.scaler = torch.amp.GradScaler(
            distiller.device.type, enabled=recipe.precision == "float16"
        )
        self.per_step = recipe.schedule.per == "step"
        self.lag = int(recipe.schedule.lags_one_epoch)
        self.scheduler = create_scheduler(self.optimizer, recipe.schedule, epochs, steps_per_epoch)
        # Student and auxiliary modules are inside, the teacher is not a submodule; before the EMA,
        # which follows the student on each rank by itself.
        self.network = distiller
        if ranks.count > 1:
            self.network = DistributedDataParallel(
                distiller, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        distiller.setup_ema(decay=recipe.ema_decay).requires_grad_(False)
        self.end_epoch()
        self._terms: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def backward(
        self,
        images: Tensor,
        targets: Tensor,
        step: int,
        shards: Sequence[int],
        share: float,
        is_last: bool,
    ) -> None:
        """Add the gradient of one pass, of these shards, which are ``share`` of the batch here."""
        started = time.perf_counter()
        torch.manual_seed(derive(self.seed, "forward", step, shards[0]))
        drawn = shards if self.relational_batch == "shard" else [0]
        seeds = [derive(self.seed, "sampling", self.name, step, shard) for shard in drawn]
        if not self.distiller.get_trainable_module().training:  # it has been evaluated
            self.distiller.train()
        with autocast(images.device, self.precision):
            losses = self.network(images, targets, seeds)
        losses.pop("output")
        for term, value in losses.items():
            self._terms[term] = self._terms.get(term, 0.0) + share * value.detach()
        self.seconds += time.perf_counter() - started
        if self.gradient_steps and step % self.steps_per_epoch % self.gradient_steps == 0:
            self._look_at_gradients(losses, share, is_last)
        started = time.perf_counter()
        self.scaler.scale(share * losses["loss"]).backward()
        self.seconds += time.perf_counter() - started

    def _look_at_gradients(self, losses: dict[str, Tensor], share: float, is_last: bool) -> None:
        """Add each term's gradient by the student's parameters; after the last pass, their norms.

        The gradients are those of the whole batch, over all passes and ranks; nothing else moves.
        """
        parameters = [p for p in self.distiller.trainable_module.parameters() if p.requires_grad]
        for term, value in losses.items():
            if term == "loss" or not value.requires_grad:
                continue
            gradients = torch.autograd.grad(
                self.scaler.scale(share * value),
                parameters,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            summed = self._gradients.pop(term, 0.0) + torch.cat([g.flatten() for g in gradients])
            if is_last:
                self._norms[term] = self.ranks.sum(summed).norm()
            else:
                self._gradients[term] = summed

    def update(self, step: int) -> None:
        """One optimizer step with the gradients of all passes."""
        started = time.perf_counter()
        self._set_learning_rate(step)
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self._trained_parameters(), self.clip_norm, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.distiller.update_ema()
        self._accumulate(step)
        self.seconds += time.perf_counter() - started

    def waits(self, is_last: bool) -> AbstractContextManager:
        """A context that leaves the averaging over the ranks to the last pass."""
        has_ranks = self.network is not self.distiller
        return self.network.no_sync() if has_ranks and not is_last else nullcontext()

    def end_epoch(self) -> None:
        """Begin the sums over an epoch's steps anew."""
        self.totals: dict[str, float] = {}
        self.shares: dict[str, float] = {}  # of the gradient, a sum over so many looks
        self.looks = 0
        self.seconds = 0.0

    def _set_learning_rate(self, step: int) -> None:
        if self.per_step:
            self.scheduler.step_update(step)
        else:
            self.scheduler.step(max(0, step // self.steps_per_epoch - self.lag))

    def _trained_parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _accumulate(self, step: int) -> None:
        """Add the step's terms, the mean over all ranks, to the epoch's totals.

        Raises:
            UserError: a term is not finite; names method, epoch, step and term.
        """
        terms = sorted(self._terms, key="loss".__eq__)  # the sum last: a term is the culprit
        local = torch.stack([self._terms[term].double() for term in terms])
        values = (self.ranks.sum(local) / self.ranks.count).tolist()  # waits for the device, once
        self._terms = {}
        for term, value in zip(terms, values, strict=True):
            if not math.isfinite(value):
                epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
                raise UserError(
                    f"method {self.name!r}: term {term!r} is {value} at epoch {epoch + 1}, step "
                    f"{step_in_epoch + 1} of {self.steps_per_epoch} (seed {self.seed}); lower the "
                    "learning rate or the term's weight, or clip gradients (optimizer.clip_norm)"
                )
            self.totals[term] = self.totals.get(term, 0.0) + value
        self._add_shares()

    def _add_shares(self) -> None:
        """Add each term's share of the norms, where this step was looked at."""
        if not self._norms:
            return
        norms = torch.stack(list(self._norms.values())).double()
        if not norms.isfinite().all():  # the scaler of float16 has not found its scale yet
            norms = torch.zeros_like(norms)
        else:
            self.looks += 1
        shares = (norms / norms.sum().clamp(min=torch.finfo(torch.float64).tiny)).tolist()
        for term, share in zip(self._norms, shares, strict=True):
            self.shares[term] = self.shares.get(term, 0.0) + share
        self._norms = {}

    def mean_shares(self) -> dict[str, float | None]:
        """Each term's share of the gradient over the epoch's looks; None where none came out."""
        return {term: own / self.looks if self.looks else None for term, own in self.shares.items()}

    def state(self) -> dict:
        return {
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "totals": self.totals,
            "shares": self.shares,
            "looks": self.looks,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict) -> None:
        self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.totals = state["totals"]
        self.shares = state["shares"]
        self.looks = state["looks"]
        self.seconds = state["seconds"]


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The autocast of a recipe's precision; none for float32."""
    enabled = precision != torch.float32
    return torch.autocast(device.type, dtype=precision if enabled else None, enabled=enabled)


def create_optimizer(
    network: nn.Module, optimizer: Optimizer, fused: bool
) -> torch.optim.Optimizer:
    """timm's optimizer over everything that a network trains, 1-D parameters undecayed.

    Raises:
        UserError: timm does not know it, or refuses the numbers.
    """
    further = {
        **({} if optimizer.epsilon is None else {"eps": optimizer.epsilon}),
        **({} if optimizer.betas is None else {"betas": tuple(optimizer.betas)}),
        **({"fused": True} if fused else {}),
    }
    try:
        kind = _find_optimizer(optimizer)
        if not fused and getattr(kind, "__module__", "").startswith("torch.optim"):
            further["foreach"] = True  # fewer calls; of Adam and SGD the same bits
        return create_optimizer_v2(
            network,
            opt=optimizer.name,
            lr=optimizer.learning_rate,
            weight_decay=optimizer.weight_decay,
            **further,
        )
    except Exception as error:  # timm's optimizers refuse in many ways
        raise UserError(f"the recipe's optimizer {vars(optimizer)} is refused: {error}") from error


def _find_optimizer(optimizer: Optimizer) -> type[torch.optim.Optimizer]:
    """The class that timm has for a name, which would pass by without a word what it does not take.

    Raises:
        UserError: names what it takes.
    """
    name = optimizer.name.lower().rpartition("_")[2]  # timm's lookahead_NAME is NAME in another
    if name not in list_optimizers():
        raise UserError(
            f"timm has no optimizer {optimizer.name!r}.{suggest(name, list_optimizers())} "
            "timm.optim.list_optimizers() lists them"
        )
    taken = get_optimizer_info(name)
    betas = taken.num_betas if taken.has_betas else 0
    if optimizer.betas is not None and len(optimizer.betas) != betas:
        raise UserError(f"betas must be {f'{betas} numbers' if betas else 'null'} for {name}")
    if optimizer.epsilon is not None and not taken.has_eps:
        raise UserError(f"epsilon must be null for {name}")
    return taken.opt_class


def create_scheduler(
    optimizer: torch.optim.Optimizer, schedule: Schedule, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """timm's schedule of a training.

    Raises:
        UserError: timm refuses the numbers.
    """
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=schedule.name,
            num_epochs=epochs,
            warmup_epochs=schedule.warmup_epochs,
            warmup_lr=schedule.warmup_learning_rate,
            min_lr=schedule.minimum_learning_rate,
            step_on_epochs=schedule.per == "epoch",
            updates_per_epoch=steps_per_epoch,
        )
    except Exception as error:  # timm asserts, and divides
        raise UserError(
            f"the recipe's schedule {vars(schedule)} is refused for {epochs} epoch(s) of "
            f"{steps_per_epoch} step(s): {told(error)}"
        ) from error
    return scheduler


def cohort_name(methods: list[str]) -> str:
    """A cohort in few words: its first method, and how many others there are."""
    first, *others = methods
    return f"{first} +{len(others)}" if others else first


class Cohort:
    """Members that share batches and the teacher's outputs, and nothing else.

    The teacher runs once a pass for all of them; they go forward, backward and through their
    update one after another, so that memory holds the graph of one, and of one pass the gradients
    of one. What a member learns is bit-identical to what it learns
    alone with the same seed.
    """

    def __init__(self, members: list[Member], teacher: FrozenTeacher | None):
        self.members = members
        self.teacher = teacher
        self.teacher_seconds = 0.0

    def step(
        self,
        images: Tensor,
        targets: Tensor,
        step: int,
        shards: Sequence[int] = (0,),
        passes: int = 1,
    ) -> None:
        """Train every member on one batch: images (B, C, H, W), targets (B, classes).

        Args:
            shards: the numbers of the shards that the images are, one after another.
            passes: gradients are accumulated over this many passes of equally many shards.
        """
        own = len(shards) // passes
        parts = zip(images.chunk(passes), targets.chunk(passes), strict=True)
        for number, (part, part_targets) in enumerate(parts):
            if any(member.distiller.uses_teacher for member in self.members):
                self._run_teacher(part)  # kept: every member that asks with these images shares it
            is_last = number == passes - 1
            for member in self.members:
                with member.waits(is_last):
                    member.backward(
                        part,
                        part_targets,
                        step,
                        shards[number * own : (number + 1) * own],
                        share=1 / passes,
                        is_last=is_last,
                    )
                if is_last:
                    member.update(step)

    def _run_teacher(self, images: Tensor) -> None:
        started = time.perf_counter()
        with autocast(images.device, self.members[0].precision):
            self.teacher(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)  # or its time would be counted as a member's
        self.teacher_seconds += time.perf_counter() - started

    def state(self) -> dict:
        return {
            "members": {member.name: member.state() for member in self.members},
            "teacher_seconds": self.teacher_seconds,
        }

    def load_state(self, state: dict) -> None:
        self.teacher_seconds = state["teacher_seconds"]
        for member in self.members:
            member.load_state(state["members"][member.name])
