"""Traps found in public code that distils vision transformers, each put back once.

A trap has a check, which the project's own code passes, and which must fail on the same code with
the trap in it: a check that cannot fail guards nothing.
"""

import contextlib
import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from timm.data.distributed_sampler import RepeatAugSampler
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from baselines.fitnet import FitNet
from baselines.soft_kd import SoftKD
from baselines.sp import similarity_loss
from benchmarks.evidence import cells
from benchmarks.table1 import figure, text
from benchmarks.table1 import measure as table1
from manifold.distiller import FrozenTeacher
from manifold.errors import UserError
from manifold.files import write_text
from manifold.losses import decoupled_manifold_loss, full_manifold_loss, kl_divergence
from manifold.models import create_model, save_weights
from manifold.ranks import Ranks
from manifold.seeds import derive
from manifold.settings import ROOT, Model, read_yaml, resolve
from manifold.tokens import forward_with_tokens
from manifold.training import cohort, description, records, teacher, train
from manifold.training.cells import Cell, student_model
from manifold.training.cohort import Cohort, Member
from manifold.training.data import (
    Mixer,
    TrainingBatches,
    evaluation_loader,
    evaluation_transform,
    load_splits,
    own_shards,
)
from manifold.training.runs import CPU, Setting, build_distiller, freeze

PAIR, RECIPE, CLASSES = "deit-cait", "A", 10
SHAPE = (1, 8, 8)
DEFINITIONS = list(read_yaml(ROOT / "config/methods.yaml"))


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
        definition = definition.replaced(distiller=distiller)
    student = student_model(chosen.pair, chosen.pair_name, method, definition)
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

    create = cohort.create_optimizer
    monkeypatch.setattr("manifold.training.cohort.create_optimizer", create_with_a_double)
    with pytest.raises(AssertionError, match="not each parameter once"):
        check_everything_trained_is_optimised(setting(**NO_DECAY), FitNet)


# ---- 3. Flags for mixing are there, and ignored ------------------------------------------------


@pytest.fixture
def training(tmp_path, tmp_path_factory):
    """A training that has not begun, under a changed recipe."""

    def make(kind=train.Training, epochs=1, **changes):
        weights = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
        smoke = resolve({"scale": "smoke"})
        torch.manual_seed(7)
        save_weights(create_model(smoke.pairs[PAIR].teacher.model, SHAPE, CLASSES), weights)
        made = resolve(
            {
                "scale": "smoke",
                "results": str(tmp_path),
                "data": {"validation": 1100},  # leaves 337 images, ten steps an epoch
                "pairs": {PAIR: {"teacher": {"weights": str(weights)}}},
                **recipe(**{"batch_size": 32, **changes}),
            }
        )
        chosen, cells = train.student_setting(made, PAIR, RECIPE, epochs, ["none"], 0)
        return kind(chosen, cells, load_splits(made.data))

    return make


def described(training):
    """What run.json says of the mixing."""
    (member,) = training.cohort.members
    return description.describe_member(member, training.mixer, training.train_images.transform)


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_record_of_flags_is_caught(training, monkeypatch):
    """The object that mixes was never made, and the record is a copy of the flags."""
    made = training(mixing=MIXED)
    made.mixer.mixup = None
    check_record_tells_the_mixing(made)  # read from the live object, it says so

    def describe_flags(member, mixer, transform):
        flags = {"mix_prob": made.setting.recipe.mixing.probability}
        return {**describe(member, mixer, transform), "mixing": flags}

    describe = description.describe_member
    made = training(mixing=MIXED)
    made.mixer.mixup = None
    monkeypatch.setattr(description, "describe_member", describe_flags)
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


def order_of_the_project(seed, epoch):
    return [position for keys in repeated(2, seed, epoch) for position, _ in keys]


def order_of_timm(seed, epoch):
    """timm's own sampler draws from the epoch alone."""
    torch.manual_seed(seed)
    sampler = RepeatAugSampler(range(LENGTH), 1, 0, num_repeats=3, selected_round=0)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_order_follows_the_seed():
    check_order_follows_the_seed(order_of_the_project)


@pytest.mark.parametrize("order", [order_of_the_project, order_of_timm])
def test_an_order_that_ignores_the_seed_is_caught(order, monkeypatch):
    monkeypatch.setattr(
        "manifold.training.data.batches.derive", lambda _, *stream: derive(0, *stream)
    )
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


@pytest.mark.slow
@pytest.mark.parametrize("method", DEFINITIONS)
def test_labels_are_named_when_alpha_is_one(method, setting):
    chosen = setting(**distilled(alpha=1.0))
    if method == "cls_kd":  # the first pair's teacher has no class token in its blocks
        pairs = chosen.experiment.pairs
        chosen = dataclasses.replace(chosen, pair=pairs["deit-deit"], pair_name="deit-deit")
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


# ---- 8. Prefix tokens are dropped by a difference of counts ------------------------------------

VIT = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
NETWORKS = {
    # CaiT has no class token in its trunk.
    "cait": Model(name="cait_xxs24_224", arguments={**VIT, "init_values": 0.1}),
    "deit": Model(name="deit_tiny_patch16_224", arguments=VIT),
    "distilled deit": Model(name="deit_tiny_distilled_patch16_224", arguments=VIT),
    "registers": Model(name="vit_tiny_patch16_224", arguments={**VIT, "reg_tokens": 4}),
}


def make_network(kind):
    torch.manual_seed(3)
    return create_model(NETWORKS[kind], SHAPE, CLASSES).eval()


@torch.no_grad()
def last_block(network, images):
    """All tokens that leave the last block of the trunk, prefix tokens too."""
    outputs = []
    hook = network.blocks[-1].register_forward_hook(lambda _, __, output: outputs.append(output))
    network(images)
    hook.remove()
    return outputs[0]


def check_tokens_are_the_patches(pair_tokens, student, teacher):
    """``pair_tokens`` of two networks returns, of each, one token a patch and nothing else."""
    images, _ = batch()
    patches = 16
    for network, found in zip(
        (student, teacher), pair_tokens(student, teacher, images), strict=True
    ):
        assert found.shape[1] == patches, f"{found.shape[1]} tokens for {patches} patches"
        # Patches come last, in every network of timm.
        expected = last_block(network, images)[:, -patches:]
        assert torch.equal(found, expected), "other tokens than the patches"


@torch.no_grad()
def by_own_prefix(student, teacher, images):
    """The project's way."""
    outputs = [forward_with_tokens(each, images, [1], 196) for each in (student, teacher)]
    return [each.tokens[1] for each in outputs]


def by_difference(student, teacher, images):
    """The trap: the student drops as many tokens as it has more than the teacher."""
    own, other = last_block(student, images), last_block(teacher, images)
    return own[:, own.shape[1] - other.shape[1] :], other


@pytest.mark.parametrize("kind", NETWORKS)
def test_tokens_are_the_patches(kind):
    check_tokens_are_the_patches(by_own_prefix, make_network("deit"), make_network(kind))


def test_prefix_tokens_that_are_dropped_by_count_are_caught():
    student = make_network("deit")
    # The one pair that it is right for, which is why it is not noticed.
    check_tokens_are_the_patches(by_difference, student, make_network("cait"))
    with pytest.raises(AssertionError, match="17 tokens for 16"):  # both class tokens leak
        check_tokens_are_the_patches(by_difference, student, make_network("deit"))
    for kind, left in (("distilled deit", 1), ("registers", 4)):  # a negative index
        with pytest.raises(AssertionError, match=f"{left} tokens for 16"):
            check_tokens_are_the_patches(by_difference, student, make_network(kind))


# ---- 9. The best epoch on the test split is reported as the result -----------------------------

VALIDATION = [50.0, 70.0, 60.0]  # top-1 that the scripted evaluation gives after each epoch
TEST = [90.0, 80.0, 75.0]
EMA = 1.0


class Scripted:
    """Stands in for the evaluation: it knows an epoch by its weights, and has looked them up."""

    def __init__(self):
        self.weights = []

    def __call__(self, experiment, models, images, what, **_):
        scores = TEST if len(images) == 360 else VALIDATION
        return [self.score(model, scores) for model in models]

    def score(self, model, scores):
        network = getattr(model, "module", model)  # timm wraps the EMA
        for known, score in zip(self.weights, scores, strict=False):
            if torch.equal(known, network.head.weight):
                return score
        return EMA


def check_result_is_of_the_last_epoch(training, monkeypatch):
    """Last epoch first; the best one is chosen on the validation split, and stands beside it."""
    script = Scripted()
    monkeypatch.setattr(train, "evaluate_split", script)
    validate = training._validate

    def remember_and_validate():
        (member,) = training.cohort.members
        script.weights.append(member.distiller.get_eval_model().head.weight.detach().clone())
        validate()

    training._validate = remember_and_validate
    training.run()
    assert len(script.weights) == 3
    training.finish()
    found = records.read_run(training.cells[0].directory / "run.json")["result"]
    assert found["top1"] == TEST[-1], "the result is not of the last epoch"
    assert found["best_epoch"] == 2, "the best epoch was not chosen on the validation split"
    assert found["best_top1"] == TEST[1]
    assert found["ema_top1"] == EMA


class BestAsResult(train.Training):
    """The trap: the best epoch takes the last one's place."""

    def finish(self):
        (member,) = self.cohort.members
        member.distiller.get_eval_model().load_state_dict(self.best[member.name]["weights"])
        super().finish()


class ChosenOnTest(train.Training):
    """The trap: the best epoch is the best on the very images that it is reported for."""

    def _validate(self):
        self.splits = dataclasses.replace(self.splits, validation=self.splits.test)
        super()._validate()


@pytest.mark.slow
def test_the_result_is_of_the_last_epoch(training, monkeypatch):
    check_result_is_of_the_last_epoch(training(epochs=3), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"), [(BestAsResult, "not of the last epoch"), (ChosenOnTest, "best epoch was")]
)
def test_best_on_test_is_caught(kind, words, training, monkeypatch):
    with pytest.raises(AssertionError, match=words):
        check_result_is_of_the_last_epoch(training(kind, epochs=3), monkeypatch)


# ---- 10. Distributed evaluation pads the validation split and counts images twice --------------
# test_distributed.py holds this with two processes; here each rank's loader is read in turn.


def check_every_image_is_counted_once(loader_of, experiment, count):
    images = load_splits(experiment.data).validation
    decoded = []

    class Watched:
        def load(self, index):
            decoded.append(index)
            return images.load(index)

    watched, labels = dataclasses.replace(images, source=Watched()), 0
    for rank in range(count):
        loader = loader_of(watched, experiment.data, 32, 0, device=CPU, ranks=Ranks(rank, count))
        labels += sum(len(own) for _, own in loader)
    assert labels == len(images), f"{labels} labels for {len(images)} images"
    assert sorted(decoded) == images.indices.tolist(), "an image is missing, or comes twice"


def padded_loader(images, data, batch_size, workers, *, device, ranks):
    """The trap: torch's sampler gives every rank equally many, some of them again."""
    sampler = DistributedSampler(images, ranks.count, ranks.rank, shuffle=False)
    return DataLoader(
        images.transformed(evaluation_transform(data)),
        sampler=[(position, None) for position in sampler],
        batch_size=batch_size,
        num_workers=workers,
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_image_is_counted_once(count, experiment):
    check_every_image_is_counted_once(evaluation_loader, experiment(), count)


def test_padding_is_caught(experiment):
    check_every_image_is_counted_once(padded_loader, experiment(), 2)  # two divide the 200 images
    for count, labels in ((3, 201), (7, 203)):
        with pytest.raises(AssertionError, match=f"{labels} labels for 200 images"):
            check_every_image_is_counted_once(padded_loader, experiment(), count)


# ---- 11. Relations in half precision underflow -------------------------------------------------

RELATIONS = {
    "intra": lambda student, teacher: decoupled_manifold_loss(student, teacher, ROWS)[0],
    "inter": lambda student, teacher: decoupled_manifold_loss(student, teacher, ROWS)[1],
    "random": lambda student, teacher: decoupled_manifold_loss(student, teacher, ROWS)[2],
    "full": full_manifold_loss,
    "sp": similarity_loss,
}
ROWS = torch.arange(6)


def check_small_differences_survive(loss):
    """Features in half precision, under autocast, whose relations differ by 1e-4 and less.

    Its square is no number of half precision, which ends at 6e-8 (and rounds below 3e-8 to zero).
    """
    basis = torch.eye(6)
    student = (basis + 1e-4 * torch.ones(6, 6).triu(1)).half().reshape(2, 3, 6)
    teacher = basis.half().reshape(2, 3, 6)
    expected = loss(student.double(), teacher.double()).item()
    assert 0 < expected < 3e-8
    with torch.autocast("cpu", dtype=torch.float16):
        found = loss(student.requires_grad_(), teacher)
    assert found.item() == pytest.approx(expected, rel=1e-2), "the difference is lost"
    found.backward()
    assert student.grad.any()


@pytest.mark.parametrize("name", RELATIONS)
def test_small_differences_survive(name):
    check_small_differences_survive(RELATIONS[name])


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_in_half_precision_are_caught(name, monkeypatch):
    for module in ("manifold.losses", "baselines.sp"):
        monkeypatch.setattr(
            f"{module}.at_least_float32", lambda x: x if x.dtype == torch.float64 else x.half()
        )
    with pytest.raises(AssertionError, match="the difference is lost"):
        check_small_differences_survive(RELATIONS[name])


@pytest.mark.parametrize("name", ["intra", "inter", "random"])
def test_relations_under_autocast_are_caught(name, monkeypatch):
    """Features in float32 do not help: autocast multiplies them in half precision."""
    under_autocast = torch.autocast

    def never_off(device, dtype=None, enabled=True):
        return under_autocast(device, dtype) if enabled else contextlib.nullcontext()

    monkeypatch.setattr(torch, "autocast", never_off)
    # The difference is formed in place, which autocast cannot do without a word.
    with pytest.raises(RuntimeError, match=r"dtypes must be the same.*Half"):
        check_small_differences_survive(RELATIONS[name])


# ---- 12. Teacher and student expect different normalisations -----------------------------------

SEEN_BY = {"mean": [0.5], "std": [0.25], "crop": 1.0, "interpolation": "bilinear"}


def check_teacher_sees_its_own_normalisation(experiment):
    """The same images through the training and through the evaluation give the same logits."""
    made = experiment(pairs={PAIR: {"teacher": {"input": SEEN_BY}}})
    pair = made.pairs[PAIR]
    chosen = Setting(made, pair, PAIR, made.recipes[RECIPE], RECIPE, 1, 0, None, Path("unused.pt"))
    frozen = freeze(chosen, make_teacher(chosen).model)
    images = load_splits(made.data).test
    own, other = (
        torch.stack([images.transformed(transform)[position, None][0] for position in range(16)])
        for transform in (
            evaluation_transform(made.data),
            evaluation_transform(made.data, pair.teacher.input),
        )
    )
    assert (own.mean() - other.mean()).abs() > 0.1  # the normalisations do differ
    expected = frozen.model(other)
    found = frozen(own).logits
    assert torch.allclose(found, expected, atol=1e-5), "the teacher sees the student's images"


def test_the_teacher_sees_its_own_normalisation(experiment):
    check_teacher_sees_its_own_normalisation(experiment)


def test_a_normalisation_that_is_not_the_teachers_is_caught(experiment, monkeypatch):
    monkeypatch.setattr(FrozenTeacher, "rescaled", lambda _, images: images)
    with pytest.raises(AssertionError, match="sees the student's"):
        check_teacher_sees_its_own_normalisation(experiment)


def test_half_a_normalisation_is_caught(experiment, monkeypatch):
    def scaled_alone(frozen, images):
        return images * frozen.rescale[0].view(1, -1, 1, 1)

    monkeypatch.setattr(FrozenTeacher, "rescaled", scaled_alone)
    with pytest.raises(AssertionError, match="sees the student's"):
        check_teacher_sees_its_own_normalisation(experiment)


# ---- 13. Tables mix epochs, tokens and recipes -------------------------------------------------

TABLE = ["soft_kd", "hard_kd_token"]
PROVENANCE = ["epochs", "images_seen", "recipe", "tokens", "teacher_sha256"]
SHOWN = ["Epochs", "Images seen", "Recipe", "Tokens", "Teacher"]


class NoFigure:
    """Drawing takes most of a table's time."""

    def savefig(self, path, format, metadata):
        Path(path).touch()

    def set_layout_engine(self, layout):
        pass


@pytest.fixture(autouse=True)
def _no_figure(monkeypatch):
    monkeypatch.setattr(figure, "draw", lambda *_: NoFigure())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A table's cells, trained for one epoch, and one cell of two epochs that is none of them."""
    made = resolve(
        {
            "scale": "smoke",
            "results": str(tmp_path_factory.mktemp("results")),
            "data": {"dataset": "textures", "validation": 320},  # leaves two steps an epoch
            "methods": TABLE,
            "table1": {"epochs": 1},
            "recipes": {RECIPE: {"batch_size": 32}},
            "pairs": {PAIR: {"teacher": {"epochs": 1}}},
        }
    )
    train.train(*train.teacher_setting(made, PAIR))
    for seed in made.seeds:
        train.train(*train.student_setting(made, PAIR, RECIPE, 1, TABLE, seed))
    train.train(*train.student_setting(made, PAIR, RECIPE, 2, ["soft_kd"], 1))
    measured = teacher.measure(made, PAIR)
    write_text(teacher.evaluation_path(made, PAIR), json.dumps(measured))
    return made


def check_rows_carry_their_provenance(experiment):
    """Every measured row has all of it, true of each of its runs, in the file and on the page."""
    experiment.studies["table1"].write()
    rows = pd.read_csv(experiment.directory / "table1.csv").set_index("method")
    assert list(rows.index) == [*TABLE, "teacher"]
    missing = [column for column in PROVENANCE if column not in rows or rows[column].isna().any()]
    assert missing == [], f"rows lack {missing}"
    runs = cells.collect(experiment, PAIR, RECIPE, 1)
    for method in TABLE:
        for run in runs[method].values():
            row, student = rows.loc[method], run["resolved"]["student"]
            known = [run["epochs"], run["images_seen"], run["recipe_name"]]
            assert [row["epochs"], row["images_seen"], row["recipe"]] == known, "budgets are mixed"
            assert row["teacher_sha256"] == run["teacher_sha256"], "teachers are mixed"
            assert ("distillation" in row["tokens"]) == (student == "VisionTransformerDistilled")
    page = (experiment.directory / "table1.md").read_text(encoding="utf-8")
    (header,) = [line for line in page.splitlines() if line.startswith("| Method")]
    shown = [title.strip() for title in header.split("|")]
    assert [title for title in SHOWN if title not in shown] == [], "the page hides it"


@pytest.mark.slow
def test_rows_carry_their_provenance(finished):
    check_rows_carry_their_provenance(finished)


@pytest.mark.slow
@pytest.mark.parametrize("column", PROVENANCE)
@pytest.mark.parametrize("row", ["_method_row", "_teacher_row"])
def test_a_row_without_provenance_is_caught(row, column, finished, monkeypatch):
    def row_without(*arguments):
        return {**make_row(*arguments), column: None}

    make_row = getattr(table1, row)
    monkeypatch.setattr(table1, row, row_without)
    monkeypatch.setattr(text, "readable", lambda rows, _: rows)  # which cannot print None
    with pytest.raises(AssertionError, match=f"rows lack .*{column}"):
        check_rows_carry_their_provenance(finished)


@pytest.mark.slow
def test_a_page_without_provenance_is_caught(finished, monkeypatch):
    def readable_without(*arguments):
        return make_readable(*arguments).drop(columns="Images seen")

    make_readable = text.readable
    monkeypatch.setattr(text, "readable", readable_without)
    with pytest.raises(AssertionError, match="the page hides it"):
        check_rows_carry_their_provenance(finished)


@pytest.mark.slow
def test_runs_of_two_budgets_in_one_row_are_caught(finished, monkeypatch):
    def read_any(experiment, key):
        *_, method, seed = key
        longer = (PAIR, RECIPE, 2, method, seed)
        mixed = longer if (method, seed) == ("soft_kd", 1) else key
        return records.read_run(experiment.cell_directory(*mixed) / "run.json")

    def read_checked(experiment, key):
        monkeypatch.setattr(cells, "read_run", lambda _: read_any(experiment, key))
        return read(experiment, key)

    read = cells._read
    monkeypatch.setattr(cells, "_read", read_checked)
    with pytest.raises(UserError, match="another configuration"):  # the project refuses them
        check_rows_carry_their_provenance(finished)
    monkeypatch.setattr(cells, "_read", read_any)
    with pytest.raises(AssertionError, match="budgets are mixed"):
        check_rows_carry_their_provenance(finished)
