"""Every method: its loss against the formula, what it trains, and the errors that it raises."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import timm.task
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

import manifold.methods
from baselines.sp import similarity_loss
from manifold.distiller import FrozenTeacher
from manifold.errors import UserError
from manifold.losses import decoupled_manifold_loss, full_manifold_loss
from manifold.models import create_model
from manifold.settings import ROOT, LayerMap, read_yaml
from manifold.tokens import Outputs
from manifold.training.cells import Cell, student_model
from manifold.training.runs import Setting, build_distiller

DEFINITIONS = read_yaml(ROOT / "config/methods.yaml")
METHODS = list(DEFINITIONS)
PAIR = "deit-cait"
# Methods that need a class token in every block of the teacher have another pair at smoke.
PAIR_OF = {"cls_kd": "deit-deit"}
CLASSES = 10
BATCH = 6
TOKENS = 16
TERMS = {
    "none": {"cross_entropy"},
    "soft_kd": {"cross_entropy", "kl"},
    "hard_kd_token": {"cross_entropy", "hard"},
    "fitnet": {"cross_entropy", "hint"},
    "sp": {"cross_entropy", "similarity"},
    "manifold": {"cross_entropy", "kl", "intra", "inter", "random"},
    "fitnet_on_soft_kd": {"cross_entropy", "kl", "hint"},
    "sp_on_soft_kd": {"cross_entropy", "kl", "similarity"},
    "manifold_on_cross_entropy": {"cross_entropy", "intra", "inter", "random"},
    "manifold_full": {"cross_entropy", "kl", "full"},
    "manifold_intra": {"cross_entropy", "kl", "intra"},
    "manifold_inter": {"cross_entropy", "kl", "inter"},
    "manifold_random": {"cross_entropy", "kl", "random"},
    "manifold_inter_equal": {"cross_entropy", "kl", "inter"},
    "manifold_random_equal": {"cross_entropy", "kl", "random"},
    "manifold_equal": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_without_intra": {"cross_entropy", "kl", "inter", "random"},
    "manifold_without_inter": {"cross_entropy", "kl", "intra", "random"},
    "manifold_without_random": {"cross_entropy", "kl", "intra", "inter"},
    "manifold_samples_48": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_samples_768": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_last": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_middle": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_quarter": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_fourfold": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_scrambled": {"cross_entropy", "kl", "intra", "inter", "random"},
    "manifold_shuffled": {"cross_entropy", "kl", "intra", "inter", "random"},
    "hard_kd": {"cross_entropy", "hard"},
    "dkd": {"cross_entropy", "target", "non_target"},
    "nkd": {"cross_entropy", "target", "non_target"},
    "dist": {"cross_entropy", "inter_class", "intra_class"},
    "dist_standardised": {"cross_entropy", "inter_class", "intra_class"},
    "label_smoothing": {"cross_entropy"},
    "vitkd": {"cross_entropy", "mimicking", "generation"},
    "vkd": {"cross_entropy", "kl", "projection"},
    "projector_ensemble": {"cross_entropy", "direction"},
    "attention_maps": {"cross_entropy", "kl", "attention"},
    "masked_kd": {"cross_entropy", "kl"},
    "masked_kd_random": {"cross_entropy", "kl"},
    "soft_kd_half": {"cross_entropy", "kl"},
    "soft_kd_temperature_2": {"cross_entropy", "kl"},
    "soft_kd_temperature_4": {"cross_entropy", "kl"},
    "spectralkd_all_pairs": {"cross_entropy", "kl", "spectrum"},
    "unic": {"cross_entropy", "features"},
    "rsd": {"cross_entropy", "redundancy"},
    "timm_logit": {"cross_entropy", "kl"},
    "attention_transfer": {"cross_entropy", "attention"},
    "rkd": {"cross_entropy", "distance", "angle"},
    "crd": {"cross_entropy", "contrast"},
    "cka": {"cross_entropy", "alignment"},
    "spectralkd": {"cross_entropy", "kl", "spectrum"},
    "ofa": {"cross_entropy", "logits", "branches"},
    "lift": {"cross_entropy", "kl", "spectrum"},
    "soft_kd_lift": {"cross_entropy", "kl"},
    "wide_last": {"cross_entropy", "kl", "features"},
    "soft_kd_wide_last": {"cross_entropy", "kl"},
    "cls_kd": {"cross_entropy", "kl", "class_tokens", "maps"},
    "proteus": {"cross_entropy", "token", "feature", "patch"},
}


@pytest.fixture
def build(experiment):
    """Build a method of the smoke scale on its toy pair, with a teacher of random weights."""

    def make(method, *, student=None, pair_name=None, **overrides):
        resolved, name = experiment(**overrides), pair_name or PAIR_OF.get(method, PAIR)
        pair = resolved.pairs[name]
        setting = Setting(
            experiment=resolved,
            pair=pair,
            pair_name=name,
            recipe=resolved.recipes["A"],
            recipe_name="A",
            epochs=1,
            seed=0,
            teacher_weights=None,
            state=Path("unused.pt"),
        )
        definition = resolved.method_definitions[method]
        student = student or student_model(pair, name, method, definition)
        cell = Cell(method, definition, student, Path("unused"), {})
        torch.manual_seed(7)
        teacher = create_model(pair.teacher.model, setting.image_shape, CLASSES)
        return build_distiller(
            setting, cell, FrozenTeacher(teacher, pair.most_tokens), classes=CLASSES
        )

    return make


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch():
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    return normal(BATCH, 1, 8, 8, seed=1).float(), labels


def mixed_targets():
    return normal(BATCH, CLASSES, seed=2).softmax(dim=-1)


def outputs(layouts, seed, heads=False):
    """Random float64 logits and tokens of a network with these token layouts."""
    first, second = (3 * normal(BATCH, CLASSES, seed=seed + i) for i in (0, 1))
    return Outputs(
        logits=(first + second) / 2,
        tokens={
            layer: normal(BATCH, TOKENS, layout.channels, seed=seed + 2 + layer)
            for layer, layout in layouts.items()
        },
        heads=(first, second) if heads else None,
    )


def both_outputs(distiller, **options):
    return (
        outputs(distiller.student_layouts, seed=100, **options),
        outputs(distiller.teacher_layouts, seed=200),
    )


def values(terms):
    return {name: term.item() for name, term in terms.items()}


def log_softmax(logits):
    logits = np.asarray(logits) - np.max(np.asarray(logits), axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def cross_entropy(logits, targets):
    return -(np.asarray(targets) * log_softmax(logits)).sum() / len(logits)


def soft_labels(alpha, temperature):
    return {"recipes": {"A": {"distillation": {"alpha": alpha, "temperature": temperature}}}}


def arguments(method, **given):
    return {"method_definitions": {method: {"arguments": given}}}


# ---- every method ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_forward_returns_loss_output_and_the_terms_that_sum_to_the_loss(build, method):
    images, labels = batch()
    result = build(method)(images, labels)
    loss, output = result.pop("loss"), result.pop("output")
    assert set(result) == TERMS[method]
    assert output.shape == (BATCH, CLASSES)
    assert all(term.shape == () and term.isfinite() and term > 0 for term in result.values())
    assert loss.item() == pytest.approx(sum(values(result).values()), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_class_indices_and_their_one_hot_rows_give_the_same_loss(build, method):
    distiller = build(method)
    images, labels = batch()
    losses = []
    for targets in (labels, F.one_hot(labels, CLASSES).float()):
        torch.manual_seed(0)
        distiller.sampling.manual_seed(0)
        losses.append(distiller(images, targets)["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_everything_but_the_teacher_gets_a_gradient(build, method):
    distiller = build(method)
    images, _ = batch()
    torch.manual_seed(0)
    distiller(images, mixed_targets().float())["loss"].backward()
    without = {
        name
        for name, parameter in distiller.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    assert without == set()  # every method's formula reaches every parameter
    assert all(parameter.grad is None for parameter in distiller.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in distiller.teacher.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_teacher_stays_in_eval_mode_and_out_of_the_method(build, method):
    distiller = build(method)
    distiller.train()
    own = {id(parameter) for parameter in distiller.parameters()}
    assert all(module.training for module in distiller.modules())
    assert not any(module.training for module in distiller.teacher.modules())
    assert not any(id(parameter) in own for parameter in distiller.teacher.parameters())
    names = {name.partition(".")[0] for name in distiller.state_dict()}
    assert names == {"trainable_module"} | ({"auxiliary"} if len(distiller.auxiliary) else set())


def test_positions_and_prefix_tokens_are_never_decayed(build):
    distiller = build("hard_kd_token")
    groups = create_optimizer_v2(distiller, opt="adamw", weight_decay=0.1).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in distiller.trainable_module.named_parameters()}
    undecayed = {name for name in found if found[name] == 0}
    assert {"pos_embed", "cls_token", "dist_token", "head.bias"} <= undecayed
    assert found["head.weight"] == 0.1


def test_no_distillation_never_asks_the_teacher(build):
    distiller = build("none")
    distiller.teacher.forward = None
    images, labels = batch()
    result = distiller(images, labels)
    expected = F.cross_entropy(result["output"], labels)
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


# ---- soft KD ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["soft_kd", "manifold", "manifold_full"])
@pytest.mark.parametrize(
    ("alpha", "temperature"), [(0.9, 2.0), (0.5, 1.0), (0.25, 7.5), (0.0, 3.0), (1.0, 4.0)]
)
def test_soft_kd_is_its_formula(build, method, alpha, temperature):
    distiller = build(method, **soft_labels(alpha, temperature))
    student, teacher = both_outputs(distiller)
    targets = mixed_targets()
    found = values(distiller.terms(student, teacher, targets))
    own, other = (log_softmax(net.logits / temperature) for net in (student, teacher))
    divergence = (np.exp(other) * (other - own)).sum() / BATCH
    expected = {}
    if alpha < 1:
        expected["cross_entropy"] = (1 - alpha) * cross_entropy(student.logits, targets)
    if alpha > 0:
        expected["kl"] = alpha * temperature**2 * divergence
    found = {name: found[name] for name in found.keys() & {"cross_entropy", "kl"}}
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("method", "alpha", "temperature"),
    [
        ("soft_kd_half", 0.5, 3.0),
        ("soft_kd_temperature_2", 0.8, 2.0),
        ("soft_kd_temperature_4", 0.8, 4.0),
        ("spectralkd_all_pairs", 0.9, 3.0),
        ("masked_kd", 0.5, 3.0),
    ],
)
def test_an_entry_may_have_an_alpha_and_a_temperature_of_its_own(build, method, alpha, temperature):
    distiller = build(method, **soft_labels(0.8, 3.0))
    assert (distiller.alpha, distiller.temperature) == (alpha, temperature)


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.5), ("temperature", 0)])
def test_an_alpha_or_temperature_that_no_run_can_use_is_refused(build, name, value):
    with pytest.raises(UserError, match=f"'{name}'"):
        build("soft_kd", **arguments("soft_kd", **{name: value}))


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_timms_logit_distillation_is_timms(build, tau):
    weights = {"task": 0.7, "distill": 1.3, "tau": tau}
    distiller = build("timm_logit", **arguments("timm_logit", **weights))
    distiller.eval()
    images, labels = batch()

    for network in (distiller.trainable_module, distiller.teacher.model):
        network.pretrained_cfg = {**network.pretrained_cfg, "mean": (0.0,), "std": (1.0,)}
    task = timm.task.LogitDistillationTask(
        distiller.trainable_module,
        distiller.teacher.model,
        criterion=torch.nn.CrossEntropyLoss(),
        distill_loss_weight=weights["distill"],
        task_loss_weight=weights["task"],
        temperature=tau,
        verbose=False,
    ).eval()
    expected, found = task(images, labels), distiller(images, labels)
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-6)
    assert found["kl"].item() == pytest.approx(1.3 * expected["kd_loss"].item(), rel=1e-6)


def test_with_alpha_one_the_labels_play_no_part(build):
    distiller = build("soft_kd", **soft_labels(1.0, 2.0))
    images, labels = batch()
    distiller.eval()
    first, second = distiller(images, labels), distiller(images, labels.flip(0))
    assert set(first) == {"loss", "output", "kl"}
    assert first["loss"].item() == second["loss"].item()


def test_kl_is_divided_by_the_batch_and_not_by_the_classes(build):
    distiller = build("soft_kd", **soft_labels(1.0, 1.0))
    impossible = torch.full((1, 30), -1e4, dtype=torch.float64)
    student = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    expected = 0.9 * np.log(1.8) + 0.1 * np.log(0.2)
    for images in (1, 4):
        found = distiller.terms(
            Outputs(torch.cat([student, impossible], dim=1).expand(images, -1), {}),
            Outputs(torch.cat([teacher, impossible], dim=1).expand(images, -1), {}),
            torch.zeros(images, dtype=torch.long),
        )
        assert found["kl"].item() == pytest.approx(expected, rel=1e-12)


# ---- hard KD with a distillation token -------------------------------------------------------


def seeded(distiller, images, targets):
    torch.manual_seed(0)
    return distiller(images, targets, [5])


def has_a_base(method):
    module, _, name = DEFINITIONS[method]["distiller"].partition(":")
    return getattr(import_module(module), name).published_base is not None


WITH_A_BASE = list(filter(has_a_base, METHODS))


@pytest.mark.slow
@pytest.mark.parametrize("base", ["soft_kd", "cross_entropy"])
@pytest.mark.parametrize("method", WITH_A_BASE)
def test_a_base_stands_under_the_same_own_terms(build, method, base):
    published = build(method)
    chosen = build(method, **arguments(method, base=base))
    chosen.load_state_dict(published.state_dict())
    images, targets = batch()
    first, second = (seeded(made, images, targets) for made in (published, chosen))
    own = TERMS[method] - {"cross_entropy", "kl"}
    assert own
    for term in own:
        torch.testing.assert_close(first[term], second[term], rtol=0, atol=0)
    alone = "soft_kd" if base == "soft_kd" else "none"
    student = {"method_definitions": {alone: {"student": DEFINITIONS[method]["student"]}}}
    below = build(alone, pair_name=PAIR_OF.get(method, PAIR), segmentation=None, **student)
    below.trainable_module.load_state_dict(published.trainable_module.state_dict())
    plain = seeded(below, images, targets)
    assert set(second) - own == set(plain)
    for term in set(plain) - {"loss"}:
        torch.testing.assert_close(second[term], plain[term])


@pytest.mark.parametrize(
    ("method", "base", "words"),
    [
        ("soft_kd", "cross_entropy", ["'soft_kd'", "no base", "leave it out"]),
        ("vkd", "soft_kd", ["'vkd'", "no base"]),
        ("fitnet", "kl", ["'fitnet'", "cross_entropy, soft_kd", "'kl'"]),
    ],
)
def test_a_base_that_is_not_there_is_refused(build, method, base, words):
    with pytest.raises(UserError) as caught:
        build(method, **arguments(method, base=base))
    assert [word for word in words if word not in str(caught.value)] == []


def test_hard_kd_gives_each_head_its_own_labels(build):
    distiller = build("hard_kd_token")
    student, teacher = both_outputs(distiller, heads=True)
    targets = mixed_targets()
    decisions = np.eye(CLASSES)[np.argmax(teacher.logits.numpy(), axis=1)]
    expected = {
        "cross_entropy": 0.5 * cross_entropy(student.heads[0], targets),
        "hard": 0.5 * cross_entropy(student.heads[1], decisions),
    }
    assert values(distiller.terms(student, teacher, targets)) == pytest.approx(expected, rel=1e-12)


def test_hard_kd_refuses_a_plain_student_and_names_the_cure(build, experiment):
    with pytest.raises(UserError) as error:
        build("hard_kd_token", student=experiment().pairs[PAIR].student)
    words = ["'hard_kd_token'", PAIR, "distilled_student", "deit_tiny_distilled_patch16_224"]
    assert [word for word in words if word not in str(error.value)] == []


def test_a_pair_without_a_distilled_student_is_refused_by_its_key(build):
    with pytest.raises(UserError, match=f"'hard_kd_token'.*pairs.{PAIR}.distilled_student"):
        build("hard_kd_token", pairs={PAIR: {"distilled_student": None}})


# ---- FitNet ----------------------------------------------------------------------------------


def test_fitnet_is_the_mean_squared_error_of_the_projections(build):
    distiller = build("fitnet", **arguments("fitnet", layers="paper", weight=7.0)).double()
    student, teacher = both_outputs(distiller)
    targets = mixed_targets()
    errors = []
    projectors = distiller.auxiliary["projectors"]
    for projector, own, other in zip(projectors, [0, 1, 2, 3], [0, 1, 3, 4], strict=True):
        weight, bias = (parameter.detach().numpy() for parameter in projector.parameters())
        hints = teacher.tokens[other].numpy()
        difference = student.tokens[own].numpy() @ weight.T + bias - hints
        errors.append((difference**2).sum() / (BATCH * TOKENS * 32))
    expected = {
        "cross_entropy": cross_entropy(student.logits, targets),
        "hint": 7 * sum(errors) / 4,
    }
    assert values(distiller.terms(student, teacher, targets)) == pytest.approx(expected, rel=1e-12)


def test_fitnet_has_its_projector_from_the_start(build):
    projectors = build("fitnet").auxiliary["projectors"]
    assert [(p.in_features, p.out_features) for p in projectors] == [(24, 32)]


# ---- similarity preserving -------------------------------------------------------------------


def similarity_reference(student, teacher):
    def similarities(features):
        rows = np.asarray(features).reshape(len(features), -1)
        products = rows @ rows.T
        return products / np.sqrt((products**2).sum(axis=1, keepdims=True))

    return ((similarities(teacher) - similarities(student)) ** 2).sum() / len(student) ** 2


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (4, 3, 8, 2), (7, 1, 3, 3), (5, 16, 24, 32)])
def test_similarity_loss_is_its_formula(shape):
    images, positions, own, other = shape
    student = normal(images, positions, own, seed=1)
    teacher = normal(images, positions, other, seed=2)
    found = similarity_loss(student, teacher).item()
    assert found == pytest.approx(similarity_reference(student, teacher), rel=1e-12, abs=1e-15)


def test_sp_averages_its_layer_pairs(build):
    distiller = build("sp", **arguments("sp", layers="paper", weight=50.0))
    student, teacher = both_outputs(distiller)
    targets = mixed_targets()
    pairs = zip([0, 1, 2, 3], [0, 1, 3, 4], strict=True)
    losses = [similarity_reference(student.tokens[a], teacher.tokens[b]) for a, b in pairs]
    expected = {
        "cross_entropy": cross_entropy(student.logits, targets),
        "similarity": 50 * sum(losses) / 4,
    }
    assert values(distiller.terms(student, teacher, targets)) == pytest.approx(expected, rel=1e-12)


# ---- manifold --------------------------------------------------------------------------------


def test_manifold_averages_each_weighted_term_over_the_layer_pairs(build):
    distiller = build("manifold", **arguments("manifold", intra=2.0, inter=30.0, random=0.5))
    student, teacher = both_outputs(distiller)
    everything = torch.arange(BATCH * TOKENS)  # fewer than samples: the draw is all of them
    losses = [
        decoupled_manifold_loss(student.tokens[own], teacher.tokens[other], everything)
        for own, other in zip([0, 1, 2, 3], [0, 1, 3, 4], strict=True)
    ]
    intra, inter, random = (sum(term).item() / 4 for term in zip(*losses, strict=True))
    found = values(distiller.terms(student, teacher, mixed_targets()))
    expected = {"intra": 2 * intra, "inter": 30 * inter, "random": 0.5 * random}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_scrambled_maps_are_of_the_teachers_weights_and_its_logits_are_its_own(build):
    distiller, plain = build("manifold_scrambled"), build("manifold")
    before = {name: p.clone() for name, p in distiller.teacher.model.named_parameters()}
    images, _ = batch()
    found, own = distiller.ask_teacher(images, None), plain.ask_teacher(images, None)
    torch.testing.assert_close(found.logits, own.logits, rtol=0, atol=0)
    for layer, tokens in own.tokens.items():
        assert tokens.shape == found.tokens[layer].shape
        assert not torch.allclose(tokens, found.tokens[layer])
    pairs = zip(before.items(), distiller.maps.model.named_parameters(), strict=True)
    for (name, weights), (other, scrambled) in pairs:
        assert name == other and torch.equal(distiller.teacher.model.get_parameter(name), weights)
        assert torch.equal(weights.flatten().sort().values, scrambled.flatten().sort().values)
    again = build("manifold_scrambled").ask_teacher(images, None)  # of the same seed
    for layer, tokens in found.tokens.items():
        torch.testing.assert_close(again.tokens[layer], tokens, rtol=0, atol=0)
    assert "maps" not in dict(distiller.named_modules())


def test_manifold_full_averages_the_weighted_loss_over_the_layer_pairs(build):
    distiller = build("manifold_full", **arguments("manifold_full", weight=6.0))
    student, teacher = both_outputs(distiller)
    losses = [
        full_manifold_loss(student.tokens[own], teacher.tokens[other]).item()
        for own, other in zip([0, 1, 2, 3], [0, 1, 3, 4], strict=True)
    ]
    found = distiller.terms(student, teacher, mixed_targets())["full"].item()
    assert found == pytest.approx(6 * sum(losses) / 4, rel=1e-12)


@pytest.mark.parametrize(("samples", "drawn"), [(1, 1), (40, 40), (96, 96), (192, 96)])
def test_rows_are_drawn_without_repetition_and_at_most_all(build, samples, drawn):
    distiller = build("manifold", **arguments("manifold", samples=samples))
    rows = distiller.draw_rows(torch.zeros(BATCH, TOKENS, 24)).tolist()
    assert len(rows) == len(set(rows)) == drawn
    assert set(rows) <= set(range(BATCH * TOKENS))


def drawn_rows(distiller, monkeypatch):
    """The rows of every layer pair in one call of the method's terms."""
    drawn = []

    def record(student, teacher, indices):
        drawn.append(indices.tolist())
        return decoupled_manifold_loss(student, teacher, indices)

    monkeypatch.setattr(manifold.methods, "decoupled_manifold_loss", record)
    distiller.terms(*both_outputs(distiller), mixed_targets())
    return drawn


def test_rows_are_drawn_anew_for_each_layer_pair_and_step(build, monkeypatch):
    distiller = build("manifold", **arguments("manifold", samples=20))
    draws = drawn_rows(distiller, monkeypatch) + drawn_rows(distiller, monkeypatch)
    assert len({tuple(rows) for rows in draws}) == 8


def test_rows_come_from_the_methods_own_generator_alone(build, monkeypatch):
    distiller = build("manifold", **arguments("manifold", samples=20))
    draws = []
    for global_seed, own_seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        distiller.sampling.manual_seed(own_seed)
        draws.append(drawn_rows(distiller, monkeypatch))
        assert torch.equal(torch.get_rng_state(), state)
    assert draws[0] == draws[1] != draws[2]


# ---- the frozen teacher ----------------------------------------------------------------------


@pytest.fixture
def teacher(experiment):
    torch.manual_seed(7)
    model = experiment().pairs[PAIR].teacher.model
    frozen = FrozenTeacher(create_model(model, (1, 8, 8), CLASSES, drop_path=0.5), most_tokens=196)
    frozen.watch([0, 4])
    return frozen


def same(first, second):
    return torch.equal(first.logits, second.logits) and all(
        torch.equal(first.tokens[layer], second.tokens[layer]) for layer in (0, 4)
    )


def test_teacher_gives_the_same_outputs_twice_after_train(teacher):
    images, _ = batch()
    teacher.train()
    first, second = teacher(images), teacher(images.clone())
    assert first is not second
    assert same(first, second)
    assert not any(module.training for module in teacher.modules())
    teacher.model.train()  # around the wrapper, stochastic depth does show
    assert not same(first, teacher(images.clone()))


def test_teacher_has_no_gradient_even_for_images_that_ask_for_one(teacher):
    images = batch()[0].requires_grad_()
    found = teacher(images)
    assert not found.logits.requires_grad
    assert not any(tokens.requires_grad for tokens in found.tokens.values())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_teacher_runs_once_for_the_same_tensor(teacher):
    images, _ = batch()
    assert teacher(images) is teacher(images)


def test_an_in_place_change_of_the_images_is_seen(teacher):
    images, _ = batch()
    before = teacher(images)
    images.mul_(-1)
    after = teacher(images)
    assert not same(before, after)
    assert same(after, teacher(images.clone()))


def test_a_new_watch_forgets_outputs_that_lack_its_layer(teacher):
    images, _ = batch()
    assert set(teacher(images).tokens) == {0, 4}
    teacher.watch([2])
    assert set(teacher(images).tokens) == {0, 2, 4}


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        pytest.param(
            "sp",
            arguments("sp", wieght=1.0),
            ["baselines.sp:SimilarityPreserving", "'wieght'", "config/methods.yaml"],
            id="unknown argument",
        ),
        pytest.param(
            "none",
            arguments("none", weight=1.0),
            ["baselines.none:NoDistillation", "'weight'"],
            id="argument of a method that has none",
        ),
        pytest.param(
            "manifold",
            arguments("manifold", layers="papr"),
            [PAIR, "layer map 'papr'", "Did you mean 'paper'?", "middle", "last"],
            id="unknown layer map",
        ),
        pytest.param(
            "sp",
            {"method_definitions": {"sp": {"distiller": "baselines.sp:Similarity"}}},
            ["'baselines.sp:Similarity'", "module:Class"],
            id="unknown class",
        ),
        pytest.param(
            "sp",
            {"method_definitions": {"sp": {"distiller": "baselines.ps:SimilarityPreserving"}}},
            ["'baselines.ps:SimilarityPreserving'", "module:Class"],
            id="unknown module",
        ),
        pytest.param(
            "sp",
            {"method_definitions": {"sp": {"distiller": "SimilarityPreserving"}}},
            ["'SimilarityPreserving'", "module:Class"],
            id="no module",
        ),
        pytest.param(
            "sp",
            {"method_definitions": {"sp": {"distiller": "manifold.tokens:Outputs"}}},
            ["manifold.tokens:Outputs is not a manifold.Distiller"],
            id="class of another kind",
        ),
        pytest.param(
            "sp",
            {"method_definitions": {"sp": {"distiller": "baselines.sp:similarity_loss"}}},
            ["baselines.sp:similarity_loss is not a manifold.Distiller"],
            id="function",
        ),
        pytest.param(
            "fitnet",
            {"pairs": {PAIR: {"layers": {"middle": {"student": [4], "teacher": [2]}}}}},
            [PAIR, "layer 4 is out of range", "4 blocks, 0 to 3"],
            id="student layer out of range",
        ),
        pytest.param(
            "sp",
            {"pairs": {PAIR: {"layers": {"last": {"student": [3], "teacher": [5]}}}}},
            [PAIR, "layer 5 is out of range", "5 blocks, 0 to 4"],
            id="teacher layer out of range",
        ),
        pytest.param(
            "manifold",
            {"pairs": {PAIR: {"student": {"arguments": {"patch_size": 4}}}}},
            [PAIR, "student block 0 has 4 = 2×2", "teacher block 0 has 16 = 4×4"],
            id="grids that differ",
        ),
    ],
)
def test_a_method_that_cannot_be_built_names_itself_and_the_culprit(
    build, method, overrides, words
):
    with pytest.raises(UserError) as error:
        build(method, **overrides)
    words = [f"method {method!r}", *words]
    assert [word for word in words if word not in str(error.value)] == []


def test_layer_map_argument_becomes_the_pairs_blocks(build):
    assert build("manifold").layers == LayerMap(student=[0, 1, 2, 3], teacher=[0, 1, 3, 4])
    assert build("sp").layers == LayerMap(student=[3], teacher=[4])
