"""The cohort: what a member learns is its own, and no member, order or teacher pass moves it.

Also the parts of a step that every method shares: optimizer groups, schedule, clipping, EMA, the
frozen teacher, and the error for a loss that is not finite.
"""

import math
from collections import Counter

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from torch import nn

from manifold.errors import UserError
from manifold.seeds import derive
from manifold.settings import resolve
from manifold.training import records, train
from manifold.training.cohort import Cohort
from manifold.training.data import load_splits

pytestmark = pytest.mark.slow

PAIR, RECIPE, CLASSES = "deit-cait", "A", 2
METHODS = resolve({"scale": "smoke"}).methods
STEPS = 5  # in an epoch of the 94 images that this leaves to train on
SMALL = {
    "scale": "smoke",
    "data": {"dataset": "faces", "validation": 6},
    "recipes": {RECIPE: {"batch_size": 16}},
}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The weights of a smoke teacher after one short epoch."""
    results = str(tmp_path_factory.mktemp("teacher"))
    pairs = {PAIR: {"teacher": {"epochs": 1}}}
    made = resolve({**SMALL, "results": results, "pairs": pairs})
    train.train(*train.teacher_setting(made, PAIR))
    return made.teacher_weights(PAIR)


@pytest.fixture(scope="session")
def build(teacher, tmp_path_factory):
    """Return the setting and the cells of some methods, each time in a new folder."""

    def make(*methods, seed=0, epochs=1, weights=teacher, **overrides):
        made = resolve(
            {
                **SMALL,
                "results": str(tmp_path_factory.mktemp("results")),
                "pairs": {PAIR: {"teacher": {"weights": str(weights)}}},
                **overrides,
            }
        )
        return train.student_setting(made, PAIR, RECIPE, epochs, list(methods), seed)

    return make


@pytest.fixture(scope="session")
def all_cells(build):
    """The cells of all the smoke methods, trained in one cohort."""
    setting, cells = build(*METHODS)
    train.train(setting, cells)
    return {cell.method: cell for cell in cells}


@pytest.fixture
def cohort(build):
    def make(*methods, steps=STEPS, **overrides):
        return train.build_cohort(*build(*methods, **overrides), CLASSES, steps)

    return make


def batch(number=0):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(32, 1, 8, 8, generator=generator)
    return images, torch.randn(32, CLASSES, generator=generator).softmax(dim=1)


def copies(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_bit_equal(own, other):
    assert own.keys() == other.keys()
    assert [name for name in own if not torch.equal(own[name], other[name])] == []


def assert_same_cell(own, other):
    weights = [load_file(cell.directory / "student.safetensors") for cell in (own, other)]
    assert_bit_equal(*weights)
    metrics = [pd.read_csv(cell.directory / "metrics.csv", dtype=str) for cell in (own, other)]
    pd.testing.assert_frame_equal(*(table.drop(columns="images_per_second") for table in metrics))


# ---- isolation -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_member_equals_the_method_trained_alone(method, build, all_cells):
    setting, cells = build(method)
    train.train(setting, cells)
    assert_same_cell(cells[0], all_cells[method])


def test_the_order_of_the_methods_does_not_matter(build, all_cells):
    setting, cells = build(*reversed(METHODS))
    train.train(setting, cells)
    for cell in cells:
        assert_same_cell(cell, all_cells[cell.method])


def test_methods_of_one_seed_start_from_the_same_student(cohort):
    students = [m.distiller.get_eval_model() for m in cohort("none", "fitnet", "manifold").members]
    for student in students[1:]:
        assert_bit_equal(copies(student), copies(students[0]))


@pytest.mark.parametrize(
    "name",
    [
        "trainable_module.pos_embed",
        "trainable_module.blocks.0.attn.qkv.weight",
        "auxiliary.projectors.0.weight",
    ],
)
def test_another_seed_differs_in_initialisation(name, cohort):
    first, again, other = (
        cohort("fitnet", seed=seed).members[0].distiller.state_dict()[name] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("stream", ["order", "augmentation", "mixup"])
def test_another_seed_differs_in_its_batches(stream, build, monkeypatch):
    """Each stream by itself: the seed of every other stream of the data is held."""
    monkeypatch.setattr(
        "manifold.training.data.batches.derive",
        lambda seed, *names: derive(seed if names[0] == stream else 0, *names),
    )
    mixing = {RECIPE: {"batch_size": 16, "mixing": {"probability": 1.0}}}
    first, again, other = (first_batch(*build("none", seed=s, recipes=mixing)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def first_batch(setting, cells):
    training = train.Training(setting, cells, load_splits(setting.experiment.data))

    class CaughtError(Exception):
        pass

    def catch(images, targets, step, shards, passes):
        raise CaughtError(images)

    training.cohort.step = catch
    with pytest.raises(CaughtError) as caught:
        training.run()
    return caught.value.args[0]


# ---- the teacher -----------------------------------------------------------------------------


def test_training_leaves_the_teacher_as_it_was(cohort, teacher):
    made = cohort(*METHODS)
    probe, _ = batch(99)
    before = made.teacher(probe)
    for step in range(3):
        made.step(*batch(step), step)
    made.teacher.train()
    assert not any(module.training for module in made.teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in made.teacher.parameters())
    assert_bit_equal(copies(made.teacher.model), load_file(teacher))
    for after in (made.teacher(probe.clone()), made.teacher(probe.clone())):
        assert after.tokens.keys() == before.tokens.keys() != set()
        assert torch.equal(after.logits, before.logits)
        assert_bit_equal(after.tokens, before.tokens)


def test_the_teacher_runs_once_a_batch_for_the_whole_cohort(cohort):
    made = cohort(*METHODS)
    passes = []
    made.teacher.model.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    for step in range(3):
        made.step(*batch(step), step)
    assert len(passes) == 3


# ---- the terms' shares of the gradient ---------------------------------------------------------


def looks(every):
    return {"cohort": {"gradient_steps": every}}


def shares_of(metrics):
    return metrics[[name for name in metrics if name.startswith(records.SHARE)]]


@pytest.mark.parametrize("every", [1, 2, None])
def test_looks_at_the_gradient_move_no_weight(every, build, all_cells):
    setting, cells = build(*METHODS, **looks(every))
    train.train(setting, cells)
    for cell in cells:
        own, other = (
            load_file(each.directory / "student.safetensors")
            for each in (cell, all_cells[cell.method])
        )
        assert_bit_equal(own, other)
        shares = shares_of(pd.read_csv(cell.directory / "metrics.csv"))
        assert shares.empty == (every is None)


def test_shares_are_of_the_norms_of_the_terms_gradients(cohort):
    made = cohort("manifold", **looks(1))
    (member,) = made.members
    images, targets = batch()
    distiller = member.distiller.train()
    parameters = list(distiller.trainable_module.parameters())
    torch.manual_seed(derive(0, "forward", 0, 0))
    losses = distiller(images, targets, [derive(0, "sampling", "manifold", 0, 0)])
    norms = {}
    for term in set(losses) - {"loss", "output"}:
        distiller.zero_grad()
        losses[term].backward(retain_graph=True)
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        norms[term] = torch.cat(gradients).norm().item()
    distiller.zero_grad()
    made.step(images, targets, 0)
    expected = {term: norm / sum(norms.values()) for term, norm in norms.items()}
    assert member.shares == pytest.approx(expected, rel=1e-4)
    assert member.looks == 1


def test_a_batch_is_looked_at_every_so_many_steps_of_an_epoch(cohort):
    (member,) = (made := cohort("soft_kd", steps=5, **looks(2))).members
    looked = []
    for step in range(7):
        made.step(*batch(step), step)
        looked.append(member.looks)
    assert looked == [1, 1, 2, 2, 3, 4, 4]  # steps 0, 2, 4; of the next epoch 0
    assert sum(member.shares.values()) == pytest.approx(4)


def test_a_term_without_a_gradient_has_no_share(cohort):
    (member,) = (made := cohort("manifold", **looks(1))).members
    for parameter in member.distiller.trainable_module.parameters():
        parameter.data.zero_()  # tokens of no length have no relations
    made.step(*batch(), 0)
    assert [member.shares[term] for term in ("intra", "inter", "random")] == [0, 0, 0]
    assert sum(member.shares.values()) == pytest.approx(1)


def test_a_look_that_overflows_counts_for_nothing(cohort):
    (member,) = (made := cohort("soft_kd", **looks(1))).members
    member._norms = {"kl": torch.tensor(float("inf")), "cross_entropy": torch.tensor(1.0)}
    member._add_shares()
    assert member.mean_shares() == {"kl": None, "cross_entropy": None}
    made.step(*batch(), 0)
    assert member.looks == 1 and sum(member.mean_shares().values()) == pytest.approx(1)


# ---- optimizer -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_trained_parameter_is_in_the_optimizer_once(method, cohort):
    made = cohort(method)
    (member,) = made.members
    held = Counter(id(p) for group in member.optimizer.param_groups for p in group["params"])
    trained = [id(p) for p in member.distiller.parameters() if p.requires_grad]
    assert held == dict.fromkeys(trained, 1)
    assert not held.keys() & {id(p) for p in made.teacher.parameters()}
    student = member.distiller.get_trainable_module()
    assert held.keys() >= {id(p) for p in student.parameters()}
    ema = member.distiller.get_trainable_module(ema=True)
    assert not any(p.requires_grad for p in ema.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_step_moves_every_trained_parameter(method, cohort):
    made = cohort(method, recipes={RECIPE: {"optimizer": {"weight_decay": 0.0}}})
    distiller = made.members[0].distiller
    named = {name: p for name, p in distiller.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in named.items()}
    made.step(*batch(), STEPS // 2)
    assert [name for name, p in named.items() if torch.equal(p, before[name])] == []
    assert (method == "fitnet") == any(name.startswith("auxiliary.") for name in named)


@pytest.mark.parametrize("method", METHODS)
def test_weight_decay_spares_vectors_and_embeddings(method, cohort):
    (member,) = cohort(method).members
    decay = {id(p): g["weight_decay"] for g in member.optimizer.param_groups for p in g["params"]}
    embeddings = {f"trainable_module.{name}" for name in ("pos_embed", "cls_token", "dist_token")}
    named = {name: p for name, p in member.distiller.named_parameters() if p.requires_grad}
    assert len(embeddings & named.keys()) >= 2
    wrong = {
        name: decay[id(p)]
        for name, p in named.items()
        if decay[id(p)] != (0.0 if p.ndim < 2 or name in embeddings else 0.05)
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("per", "warmup_epochs"), [("step", 0), ("step", 0.5), ("step", 1), ("epoch", 0), ("epoch", 2)]
)
def test_learning_rate_warms_up_and_follows_the_cosine(per, warmup_epochs, cohort):
    steps, epochs = 4, 5
    schedule = {"per": per, "warmup_epochs": warmup_epochs}
    made = cohort("fitnet", epochs=epochs, steps=steps, recipes={RECIPE: {"schedule": schedule}})
    used = []
    made.members[0].optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append([group["lr"] for group in optimizer.param_groups])
    )
    for step in range(epochs * steps):
        made.step(*batch(), step)
    base, first, least = 0.003, 1e-6, 1e-5
    for step, rates in enumerate(used):
        time = step if per == "step" else step // steps
        total = epochs * steps if per == "step" else epochs
        warmup = warmup_epochs * total / epochs
        expected = least + 0.5 * (base - least) * (1 + math.cos(math.pi * time / total))
        if time < warmup:
            expected = first + time * (base - first) / warmup
        assert rates == pytest.approx([expected] * len(rates), rel=1e-12), step
    assert len(used) == epochs * steps


def test_gradients_are_clipped_by_the_norm_of_each_member(cohort):
    limit = 0.05
    raw, clipped = (
        gradients_of_a_step(
            cohort("soft_kd", "fitnet", recipes={RECIPE: {"optimizer": {"clip_norm": norm}}})
        )
        for norm in (None, limit)
    )
    for free, held in zip(raw, clipped, strict=True):
        norm = torch.cat([gradient.flatten() for gradient in free]).norm()
        assert norm > limit
        for before, after in zip(free, held, strict=True):
            torch.testing.assert_close(after, before * (limit / (norm + 1e-6)))


def gradients_of_a_step(cohort):
    """The gradients that reach the optimizer of each member."""
    caught = []

    def catch(optimizer, *_):
        groups = optimizer.param_groups
        caught.append([p.grad.clone() for group in groups for p in group["params"]])

    for member in cohort.members:
        member.optimizer.register_step_pre_hook(catch)
    cohort.step(*batch(), 0)
    return caught


def test_of_one_pass_memory_holds_the_gradients_of_one_member(cohort):
    made = cohort("none", "soft_kd", "fitnet")
    holding = []
    for member in made.members:
        member.optimizer.register_step_pre_hook(
            lambda *_: holding.append([m.name for m in made.members if has_gradients(m)])
        )
    made.step(*batch(), 0)
    assert holding == [["none"], ["soft_kd"], ["fitnet"]]
    assert not any(has_gradients(member) for member in made.members)


def has_gradients(member):
    return any(p.grad is not None for p in member.distiller.parameters())


def test_ema_after_two_steps_is_the_weighted_mean(cohort):
    made = cohort("soft_kd", recipes={RECIPE: {"ema_decay": 0.75}})
    distiller = made.members[0].distiller
    weights = [copies(distiller.get_trainable_module())]
    for step in (5, 6):
        made.step(*batch(step), step)
        weights.append(copies(distiller.get_trainable_module()))
    for name, value in distiller.get_trainable_module(ema=True).module.state_dict().items():
        start, first, second = (each[name] for each in weights)
        expected = 0.75 * (0.75 * start + 0.25 * first) + 0.25 * second
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


# ---- losses that are not finite --------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "network", "term"),
    [
        ("soft_kd", "teacher", "kl"),
        ("fitnet", "teacher", "hint"),
        ("sp", "teacher", "similarity"),
        ("manifold", "teacher", "kl"),
        ("none", "student", "cross_entropy"),
        ("hard_kd_token", "student", "cross_entropy"),
        ("manifold_full", "student", "cross_entropy"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_training(method, network, term, build, monkeypatch):
    step_of_cohort = Cohort.step

    def poison_and_step(self, images, targets, step, *shards_and_passes):
        if step == STEPS + 3:
            student = self.members[-1].distiller.get_trainable_module()
            model = self.teacher.model if network == "teacher" else student
            model.pos_embed.data.view(-1)[0] = math.nan
        step_of_cohort(self, images, targets, step, *shards_and_passes)

    monkeypatch.setattr(Cohort, "step", poison_and_step)
    companion = "none" if method != "none" else "soft_kd"
    setting, cells = build(companion, method, epochs=2)
    with pytest.raises(UserError) as caught:
        train.train(setting, cells)
    message = str(caught.value)
    for part in (f"method {method!r}", f"term {term!r} is nan", "epoch 2", f"step 4 of {STEPS}"):
        assert part in message
    assert not any(cell.directory.exists() for cell in cells)


def test_hard_labels_of_a_teacher_that_is_not_finite_are_refused(build, teacher, tmp_path):
    """The argmax of NaN is a label like any other, so that the loss itself stays finite."""
    weights = load_file(teacher)
    weights["pos_embed"].view(-1)[0] = math.nan
    save_file(weights, tmp_path / "nan.safetensors")
    setting, cells = build("hard_kd_token", weights=tmp_path / "nan.safetensors")
    with pytest.raises(UserError):
        train.train(setting, cells)
    assert not cells[0].directory.exists()


# ---- the optimizer -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "momentum"])
def test_parameters_that_are_stepped_together_get_the_bits_of_one_at_a_time(name):
    def trained(foreach):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(9, 17), nn.GELU(), nn.LayerNorm(17), nn.Linear(17, 5))
        arguments = {"lr": 0.01, "weight_decay": 0.05, "foreach": foreach}
        optimizer = create_optimizer_v2(network, opt=name, **arguments)
        for _ in range(6):
            network(torch.randn(11, 9)).square().mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.05, foreach=foreach)
            optimizer.step()
            optimizer.zero_grad()
        return list(network.parameters())

    assert all(map(torch.equal, trained(True), trained(False)))


def test_an_optimizer_of_torch_steps_parameters_together(cohort):
    (member,) = cohort("none").members
    assert member.optimizer.defaults["foreach"] is True
