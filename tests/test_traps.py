"""Traps found in public code that distils vision transformers, each put back once.

A trap has a check, which the project's own code passes, and which must fail on the same code with
the trap in it: a check that cannot fail guards nothing.
"""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.distributed_sampler import RepeatAugSampler
from torch import nn

from baselines.fitnet import FitNet
from baselines.soft_kd import SoftKD
from benchmarks import table1
from manifold import cohort, config, records, train
from manifold.cohort import Cohort, Member
from manifold.config import read_yaml
from manifold.data import (
    Mixer,
    TrainingBatches,
    load_splits,
    own_shards,
)
from manifold.distiller import FrozenTeacher
from manifold.losses import kl_divergence
from manifold.models import create_model, save_weights
from manifold.ranks import Ranks
from manifold.runs import Cell, Setting, build_distiller, student_model
from manifold.tokens import forward_with_tokens

PAIR, RECIPE, CLASSES = "deit-cait", "A", 10
SHAPE = (1, 8, 8)
DEFINITIONS = list(read_yaml(config.ROOT / "config/methods.yaml"))


def recipe(**changes):
    return {"recipes": {RECIPE: changes}}


@pytest.fixture
def setting(experiment):
    """The smoke scale's own setting, with the recipe changed."""

    def make(**changes):
        made = experiment(**recipe(**changes))
        return Setting(
            experiment=made,
            pair=made.pairs[PAIR],
            pair_name=PAIR,
            recipe=made.recipes[RECIPE],
            recipe_name=RECIPE,
            epochs=1,
            seed=0,
            teacher_weights=None,
            state=Path("unused.pt"),
        )

    return make


def make_teacher(chosen, drop_path=0.0):
    """The pair's teacher with random weights."""
    torch.manual_seed(7)
    return FrozenTeacher(
        create_model(chosen.pair.teacher.model, SHAPE, CLASSES, drop_path), chosen.pair.most_tokens
    )


def make_distiller(chosen, method, kind=None, teacher=None):
    """A method as the project builds it, or with ``kind`` in the place of its class."""
    definition = chosen.experiment.method_definitions[method]
    if kind is not None:
        distiller = f"{kind.__module__}:{kind.__name__}"
        definition = dataclasses.replace(definition, distiller=distiller)
    student = student_model(chosen.pair, PAIR, method, definition)
    cell = Cell(method, definition, student, Path("unused"), {})
    return build_distiller(chosen, cell, teacher or make_teacher(chosen), CLASSES)


def make_member(chosen, distiller, method):
    return Member(method, distiller, chosen.recipe, seed=0, epochs=1, steps_per_epoch=10)


def batch(images=8):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(images, CLASSES, generator=generator).softmax(dim=1)
    return torch.randn(images, *SHAPE, generator=generator), targets


# ---- 1. The teacher is put back in train mode, and its stochastic depth with it ----------------


def check_teacher_repeats_itself(distiller):
    """After everything was put in train mode, two passes on one batch are bit-equal."""
    images, _ = batch()
    distiller.train()
    distiller.teacher.train()
    first, second = (distiller.teacher(images.clone()) for _ in range(2))
    assert torch.equal(first.logits, second.logits), "the teacher's logits changed"
    assert first.tokens.keys() == second.tokens.keys() != set()
    for layer, tokens in first.tokens.items():
        assert torch.equal(tokens, second.tokens[layer]), "the teacher's tokens changed"


@pytest.fixture
def with_stochastic_teacher(setting):
    """A method whose teacher drops half of its blocks, were it ever in train mode."""
    chosen = setting()
    return make_distiller(chosen, "manifold", teacher=make_teacher(chosen, drop_path=0.5))


def test_the_teacher_repeats_itself(with_stochastic_teacher):
    check_teacher_repeats_itself(with_stochastic_teacher)


def test_a_teacher_that_follows_train_mode_is_caught(with_stochastic_teacher, monkeypatch):
    monkeypatch.setattr(FrozenTeacher, "train", nn.Module.train)
    with pytest.raises(AssertionError, match="logits changed"):
        check_teacher_repeats_itself(with_stochastic_teacher)


# ---- 2. A projector is created at the first forward pass, after the optimizer ------------------


class LazyProjector(FitNet):
    """The trap: the widths are read off the first batch."""

    def __init__(self, *networks, **common):
        super().__init__(*networks, **common)
        del self.auxiliary["projectors"]

    def terms(self, student, teacher, targets):
        if "projectors" not in self.auxiliary:
            self.auxiliary["projectors"] = nn.ModuleList(
                nn.Linear(own.shape[-1], other.shape[-1])
                for own, other in self.token_pairs(student, teacher)
            )
        return super().terms(student, teacher, targets)


class DetachedProjector(FitNet):
    """The trap's other form: in the optimizer, and never reached by a gradient."""

    def terms(self, student, teacher, targets):
        with torch.no_grad():
            terms = super().terms(student, teacher, targets)
        return {**terms, "cross_entropy": F.cross_entropy(student.logits, targets)}


class RegisteredTeacher(FitNet):
    """The trap's reverse: a teacher that is a submodule, and that nobody froze."""

    def __init__(self, student, teacher, **common):
        super().__init__(student, teacher, **common)
        self.registered = teacher.model.requires_grad_(True)


def check_everything_trained_is_optimised(chosen, kind):
    distiller = make_distiller(chosen, "fitnet", kind)
    member = make_member(chosen, distiller, "fitnet")
    before = {name: value.clone() for name, value in distiller.auxiliary.named_parameters()}
    Cohort([member], distiller.teacher).step(*batch(), step=5)
    held = Counter(id(p) for group in member.optimizer.param_groups for p in group["params"])
    assert not held.keys() & {id(p) for p in distiller.teacher.parameters()}, "teacher is trained"
    trained = {name: id(p) for name, p in distiller.named_parameters() if p.requires_grad}
    assert held == dict.fromkeys(trained.values(), 1), "not each parameter once in the optimizer"
    after = dict(distiller.auxiliary.named_parameters())
    assert before.keys() == after.keys() != set()
    still = [name for name, value in before.items() if torch.equal(value, after[name])]
    assert still == [], "auxiliary weights did not move"


NO_DECAY = {"optimizer": {"weight_decay": 0.0}}  # which moves weights that no gradient reaches


def test_everything_trained_is_optimised(setting):
    check_everything_trained_is_optimised(setting(**NO_DECAY), FitNet)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (LazyProjector, "not each parameter once"),
        (DetachedProjector, "did not move"),
        (RegisteredTeacher, "teacher is trained"),
    ],
)
def test_weights_outside_the_optimizer_are_caught(kind, words, setting):
    with pytest.raises(AssertionError, match=words):
        check_everything_trained_is_optimised(setting(**NO_DECAY), kind)


def test_a_parameter_that_is_optimised_twice_is_caught(setting, monkeypatch):
    """torch refuses it between two groups, and only warns within one."""

    def create_with_a_double(*arguments):
        optimizer = create(*arguments)
        group = optimizer.param_groups[0]["params"]
        group.append(group[0])
        return optimizer

    create = cohort._create_optimizer
    monkeypatch.setattr("manifold.cohort._create_optimizer", create_with_a_double)
    with pytest.raises(AssertionError, match="not each parameter once"):
        check_everything_trained_is_optimised(setting(**NO_DECAY), FitNet)


# ---- 3. Flags for mixing are there, and ignored ------------------------------------------------


@pytest.fixture
def training(tmp_path, tmp_path_factory):
    """A training that has not begun, under a changed recipe."""

    def make(kind=train.Training, epochs=1, **changes):
        weights = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
        smoke = config.resolve({"scale": "smoke"})
        torch.manual_seed(7)
        save_weights(create_model(smoke.pairs[PAIR].teacher.model, SHAPE, CLASSES), weights)
        made = config.resolve(
            {
                "scale": "smoke",
                "results": str(tmp_path),
                "data": {"validation": 1100},  # leaves 337 images, ten steps an epoch
                "pairs": {PAIR: {"teacher": {"weights": str(weights)}}},
                **recipe(**changes),
            }
        )
        chosen, cells = train.student_setting(made, PAIR, RECIPE, epochs, ["none"], 0)
        return kind(chosen, cells, load_splits(made.data))

    return make


def described(training):
    """What run.json says of the mixing."""
    (member,) = training.cohort.members
    return records.describe_member(member, training.mixer, training.train_images.transform)


def check_record_tells_the_mixing(training):
    """The targets of an epoch are mixed if and only if the record says so."""
    seen = []

    def watch(images, targets, step, shards, passes):
        seen.append(targets)
        cohort_step(images, targets, step, shards, passes)

    cohort_step, training.cohort.step = training.cohort.step, watch
    training.run()
    record = described(training)
    floor = record["label_smoothing"] / CLASSES + 1e-6  # of every class that is not the label
    mixed = [bool((targets.topk(2).values[:, 1] > floor).any()) for targets in seen]
    assert len(mixed) == 10
    if record["mixing"]:
        assert record["mixing"]["mix_prob"] == 1.0
        assert sum(mixed) > 5, "recorded as mixed, and was not"  # a share may be drawn near 0 or 1
    else:
        assert not any(mixed), "mixed, and not recorded"


MIXED = {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0}


@pytest.mark.parametrize("mixing", [MIXED, None], ids=["mixed", "not mixed"])
def test_the_record_tells_the_mixing(mixing, training):
    made = training(mixing=mixing)
    check_record_tells_the_mixing(made)
    assert bool(described(made)["mixing"]) == bool(mixing)


def test_mixing_that_is_ignored_is_caught(training, monkeypatch):
    def smooth_alone(mixer, images, labels, step, shards=(0,)):
        mixup, mixer.mixup = mixer.mixup, None
        mixed = mix(mixer, images, labels, step, shards)
        mixer.mixup = mixup
        return mixed

    mix = Mixer.__call__
    monkeypatch.setattr(Mixer, "__call__", smooth_alone)
    with pytest.raises(AssertionError, match="recorded as mixed"):
        check_record_tells_the_mixing(training(mixing=MIXED))


def test_a_record_of_flags_is_caught(training, monkeypatch):
    """The object that mixes was never made, and the record is a copy of the flags."""
    made = training(mixing=MIXED)
    made.mixer.mixup = None
    check_record_tells_the_mixing(made)  # read from the live object, it says so

    def describe_flags(member, mixer, transform):
        flags = {"mix_prob": made.setting.recipe.mixing.probability}
        return {**describe(member, mixer, transform), "mixing": flags}

    describe = records.describe_member
    made = training(mixing=MIXED)
    made.mixer.mixup = None
    monkeypatch.setattr(records, "describe_member", describe_flags)
    with pytest.raises(AssertionError, match="recorded as mixed"):
        check_record_tells_the_mixing(made)


# ---- 4. Repeated augmentation: copies in one batch, and an order that ignores the seed ---------

LENGTH = 120


def repeated(shards, seed=0, epoch=0, kind=TrainingBatches):
    return kind(LENGTH, 12, seed, epoch, shards=shards, repeats=3)


def check_duplicates_are_recorded(batches, scope):
    """The recorded share is that of the entries whose image is in their relational batch twice."""
    for number, keys in enumerate(batches):
        parts = [keys] if scope == "batch" else np.array_split(keys, batches.shards)
        distinct = sum(len({int(position) for position, _ in part}) for part in parts)
        found = batches.duplicate_share(number, scope)
        assert found == pytest.approx(1 - distinct / len(keys)), "the duplicate share is wrong"


@pytest.mark.parametrize(
    ("shards", "scope", "expected"),
    [
        (1, "shard", 2 / 3),
        (2, "shard", 1 / 3),
        (3, "shard", 0.0),
        (6, "shard", 0.0),
        (6, "batch", 2 / 3),  # the exact global loss sees all copies, on any number of ranks
    ],
)
def test_the_share_of_duplicates_is_recorded(shards, scope, expected):
    check_duplicates_are_recorded(repeated(shards), scope)
    assert repeated(shards).duplicate_share(0, scope) == pytest.approx(expected)


class UnawareBatches(TrainingBatches):
    """The trap: whoever asks for three copies of an image believes to have three images."""

    def duplicate_share(self, batch, relational_batch):
        return 0.0


@pytest.mark.parametrize(("shards", "scope"), [(1, "shard"), (2, "shard"), (6, "batch")])
def test_duplicates_that_nobody_records_are_caught(shards, scope):
    check_duplicates_are_recorded(repeated(3, kind=UnawareBatches), "shard")  # three hide it
    with pytest.raises(AssertionError, match="duplicate share"):
        check_duplicates_are_recorded(repeated(shards, kind=UnawareBatches), scope)


def check_order_follows_the_seed(order):
    """``order`` returns an epoch's images for a seed and an epoch."""
    assert order(seed=0, epoch=0) == order(seed=0, epoch=0)
    assert order(seed=0, epoch=0) != order(seed=0, epoch=1), "the order ignores the epoch"
    assert order(seed=0, epoch=0) != order(seed=1, epoch=0), "the order ignores the seed"


def test_the_order_follows_the_seed():
    def order(seed, epoch):
        return [position for keys in repeated(2, seed, epoch) for position, _ in keys]

    check_order_follows_the_seed(order)


def test_an_order_that_ignores_the_seed_is_caught():
    """timm's own sampler draws from the epoch alone."""

    def order(seed, epoch):
        torch.manual_seed(seed)
        sampler = RepeatAugSampler(range(LENGTH), 1, 0, num_repeats=3, selected_round=0)
        sampler.set_epoch(epoch)
        return list(sampler)

    with pytest.raises(AssertionError, match="ignores the seed"):
        check_order_follows_the_seed(order)


# ---- 5. The relational batch is whatever one rank, or one pass, holds --------------------------
# test_distributed.py holds this with several processes; here the parts go one after another.

STILL = {"drop_path": 0.0, "shards": 4, "batch_size": 32, "optimizer": {"clip_norm": None}}


def gradients(chosen, passes, member_of=make_member):
    """The gradient of a step of four shards, in parts as ranks or passes share them out."""
    distiller = make_distiller(chosen, "manifold")
    member = member_of(chosen, distiller, "manifold")
    found = []
    member.optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in distiller.parameters() if p.requires_grad)
    )
    shards = [shard for rank in range(passes) for shard in own_shards(4, Ranks(rank, passes))]
    Cohort([member], distiller.teacher).step(*batch(32), 5, shards, passes)
    return torch.cat([gradient.flatten() for gradient in found])


def check_relations_are_of_the_shards(chosen, member_of=make_member):
    whole = gradients(chosen, 1, member_of)
    for passes in (2, 4):
        difference = (gradients(chosen, passes, member_of) - whole).norm() / whole.norm()
        assert difference < 1e-4, f"{passes} parts are another method than one"


def test_relations_are_of_the_shards(setting):
    check_relations_are_of_the_shards(setting(**STILL, relational_batch="shard"))


def test_a_relational_batch_of_whatever_is_there_is_caught(setting):
    def member_of(chosen, distiller, method):
        member = make_member(chosen, distiller, method)
        member.relational_batch = "batch"  # which the project refuses to cut into passes
        return member

    with pytest.raises(AssertionError, match="another method"):
        check_relations_are_of_the_shards(setting(**STILL, relational_batch="shard"), member_of)


class TwoRanks:
    """Two ranks that run one after another: the first time, each leaves what the other needs."""

    count = 2

    def __init__(self):
        self.left = ([], [])
        self.rank, self.reads = 0, None

    def gather(self, local):
        if self.reads is None:
            self.left[self.rank].append(local.detach())
            return local
        number, self.reads = self.reads, self.reads + 1
        parts = [left[number] for left in self.left]
        parts[self.rank] = local
        return torch.cat(parts)


def check_global_loss_is_exact(distiller, ranks):
    """Each of two ranks has the relational terms of the whole batch."""
    images, targets = batch()
    distiller.eval()
    expected = distiller(images, targets, [5])
    halves = list(zip(images.chunk(2), targets.chunk(2), strict=True))
    distiller.relational_ranks = ranks
    for reads in (None, 0):
        for rank, half in enumerate(halves):
            ranks.rank, ranks.reads = rank, reads
            found = distiller(*half, [5])
            for term in ("intra", "inter", "random") if reads == 0 else ():
                assert found[term].item() == pytest.approx(expected[term].item(), rel=1e-5), term


def test_the_global_loss_is_exact(setting):
    check_global_loss_is_exact(make_distiller(setting(), "manifold"), TwoRanks())


def test_a_global_loss_of_one_rank_is_caught(setting):
    ranks = TwoRanks()
    ranks.gather = lambda local: local
    with pytest.raises(AssertionError, match=r"intra|inter|random"):
        check_global_loss_is_exact(make_distiller(setting(), "manifold"), ranks)


# ---- 6. KL is divided by batch × classes -------------------------------------------------------


def check_kl_is_a_mean_over_the_batch(chosen):
    """Against the formula, and with 990 classes more that neither network believes in."""
    distiller = make_distiller(chosen, "soft_kd")
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(6, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    alpha, temperature = distiller.alpha, distiller.temperature
    own, other = (np.exp(logits.numpy() / temperature) for logits in (student, teacher))
    own, other = (each / each.sum(axis=1, keepdims=True) for each in (own, other))
    expected = alpha * temperature**2 * (other * np.log(other / own)).sum() / 6
    for classes in (CLASSES, 1000):
        logits = (F.pad(each, (0, classes - CLASSES), value=-1e4) for each in (student, teacher))
        outputs = (forward_with_tokens(lambda x: x, each, [], 196) for each in logits)
        targets = torch.zeros(6, dtype=torch.long)
        found = distiller.terms(*outputs, targets)["kl"].item()
        assert found == pytest.approx(expected, rel=1e-9), f"KL over {classes} classes"


def test_kl_is_a_mean_over_the_batch(setting):
    check_kl_is_a_mean_over_the_batch(setting())


def test_kl_over_batch_times_classes_is_caught(setting, monkeypatch):
    def divided_twice(student, teacher, temperature):
        own, other = (F.log_softmax(each / temperature, dim=-1) for each in (student, teacher))
        # What reduction="mean" is today; torch announces that it will change.
        return F.kl_div(own, other, reduction="none", log_target=True).mean()

    logits = torch.randn(2, 4, 1000, generator=torch.Generator().manual_seed(0))
    factor = kl_divergence(*logits, 1.0) / divided_twice(*logits, 1.0)
    assert factor.item() == pytest.approx(1000, rel=1e-4)
    monkeypatch.setattr("manifold.distiller.kl_divergence", divided_twice)
    with pytest.raises(AssertionError, match="KL over 10 classes"):
        check_kl_is_a_mean_over_the_batch(setting())


# ---- 7. Alpha = 1 drops the labels without a word ----------------------------------------------


def distilled(alpha):
    return {"drop_path": 0.0, "distillation": {"alpha": alpha, "temperature": 1.0}}


def check_labels_are_named(distiller):
    """A loss that the labels move has the term that the tables call labels, and no other has."""
    images, _ = batch()
    losses = []
    for first in (0, 1):
        labels = (torch.arange(first, first + len(images))) % CLASSES
        torch.manual_seed(0)
        losses.append(distiller(images, labels, [5]))
    read = losses[0]["loss"].item() != losses[1]["loss"].item()
    assert read == (table1.LABEL_TERM in losses[0]), "labels are not what the terms say"


@pytest.mark.parametrize("method", DEFINITIONS)
def test_labels_are_named_when_alpha_is_one(method, setting):
    chosen = setting(**distilled(alpha=1.0))
    check_labels_are_named(make_distiller(chosen, method))


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_labels_are_named_below_alpha_one(alpha, setting):
    chosen = setting(**distilled(alpha))
    check_labels_are_named(make_distiller(chosen, "soft_kd"))


class SilentSoftKD(SoftKD):
    """The trap: a cross-entropy that is logged as ever, with the weight 1 − α = 0."""

    def terms(self, student, teacher, targets):
        cross_entropy = (1 - self.alpha) * F.cross_entropy(student.logits, targets)
        return {**super().terms(student, teacher, targets), "cross_entropy": cross_entropy}


def test_labels_that_are_dropped_silently_are_caught(setting):
    chosen = setting(**distilled(alpha=0.9))
    check_labels_are_named(make_distiller(chosen, "soft_kd", SilentSoftKD))  # all is well here
    chosen = setting(**distilled(alpha=1.0))
    with pytest.raises(AssertionError, match="not what the terms say"):
        check_labels_are_named(make_distiller(chosen, "soft_kd", SilentSoftKD))
