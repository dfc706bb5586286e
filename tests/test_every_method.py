"""What every method must keep to, one table over all of config/methods.yaml."""

import pytest
import test_methods
import torch
from test_methods import (
    BATCH,
    CLASSES,
    DEFINITIONS,
    METHODS,
    PAIR,
    PAIR_OF,
    TERMS,
    arguments,
    normal,
)
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from manifold.tokens import Outputs

pytestmark = pytest.mark.slow

build = test_methods.build
every_method = pytest.mark.parametrize("method", METHODS)

WITHOUT_TEACHER = ("none", "label_smoothing")
MANIFOLD = [method for method in METHODS if method.startswith("manifold")]
# The terms that a perfect student brings to zero, by the method's formula. Of the others the
# cross-entropies keep the entropy of labels or teacher, CRD and OFA what temperature and label
# leave, and the targets of ViTKD's generator, VkD and the projector ensemble are no student's own.
VANISHING = {
    "none": set(),
    "label_smoothing": set(),
    "soft_kd": {"kl"},
    "hard_kd": set(),
    "hard_kd_token": set(),
    "dkd": {"target", "non_target"},
    "nkd": set(),
    "dist": {"inter_class", "intra_class"},
    "dist_standardised": {"inter_class", "intra_class"},
    "fitnet": {"hint"},
    "sp": {"similarity"},
    "fitnet_on_soft_kd": {"kl", "hint"},
    "sp_on_soft_kd": {"kl", "similarity"},
    "attention_transfer": {"attention"},
    "rkd": {"distance", "angle"},
    "crd": set(),
    "cka": {"alignment"},
    "vitkd": {"mimicking"},
    "vkd": {"kl"},
    "projector_ensemble": set(),
    "attention_maps": {"kl", "attention"},
    "masked_kd": {"kl"},
    "masked_kd_random": {"kl"},
    "soft_kd_half": {"kl"},
    "soft_kd_temperature_2": {"kl"},
    "soft_kd_temperature_4": {"kl"},
    "spectralkd_all_pairs": {"kl", "spectrum"},
    "unic": {"features"},
    "rsd": set(),
    "timm_logit": {"kl"},
    "spectralkd": {"kl", "spectrum"},
    "ofa": set(),
    "lift": {"kl"},  # the student's lift is no identity
    "soft_kd_lift": {"kl"},
    "wide_last": {"kl", "features"},
    "soft_kd_wide_last": {"kl"},
    "cls_kd": {"kl", "maps"},
    "proteus": set(),
    **{method: TERMS[method] - {"cross_entropy"} for method in MANIFOLD},
}
AS_WIDE_AS_THE_TEACHER = {
    pair: {
        network: {"arguments": {"embed_dim": 32}}
        for network in ("student", "distilled_student", "lifted_student")
    }
    for pair in (PAIR, *PAIR_OF.values())
}
NO_DROP_PATH = {"recipes": {"A": {"drop_path": 0.0}}}
WITH_PROJECTORS = ("fitnet", "fitnet_on_soft_kd", "unic")  # that may be the identity
# Draws that take everything, so that no draw differs between two calls.
EVERYTHING = {"samples": 1000, "mask_ratio": 1.0, "masked_images": 1.0}
# Terms whose gradient the method stops on its way.
STOPPED = {"proteus": {"cross_entropy"}}


def undrawn(method):
    own = DEFINITIONS[method]["arguments"]
    whole = {"keep": 1.0} if own.get("choice") == "random" else {}
    everything = {name: EVERYTHING[name] for name in own.keys() & EVERYTHING}
    return arguments(method, **everything, **whole)


def exact(build, method, **overrides):
    """A method in float64, without draws of its own; projectors of equal width are the identity."""
    distiller = build(method, **NO_DROP_PATH, **undrawn(method), **overrides).double()
    distiller.teacher.double()
    if hasattr(distiller, "maps"):  # a teacher of its own
        distiller.maps.double()
    with torch.no_grad():
        projectors = distiller.auxiliary["projectors"] if method in WITH_PROJECTORS else []
        for projector in projectors:
            if projector.in_features == projector.out_features:
                projector.weight.copy_(torch.eye(projector.in_features))
                projector.bias.zero_()
    return distiller


def batch():
    images, _ = test_methods.batch()
    return images.double(), test_methods.mixed_targets()


def outputs(model, layouts, attention, seed):
    """Outputs of a network with these layouts, with all that methods read of one."""
    made = test_methods.outputs(layouts, seed, heads=True)
    if attention is not None:
        made.attention = {attention.block: normal(BATCH, 16, seed=seed + 90).softmax(dim=1)}
    made.class_tokens = {
        block: normal(BATCH, layout.channels, seed=seed + 50 + block)
        for block, layout in layouts.items()
    }
    tokens = model.num_prefix_tokens + 16
    made.features = normal(BATCH, tokens, model.num_features, seed=seed + 70)
    made.images = batch()[0]
    return made


def both(distiller):
    """Outputs of the student, and of the teacher where the method reads one."""
    student, teacher = distiller.trainable_module, distiller.teacher
    return (
        outputs(student, distiller.student_layouts, distiller.attention, seed=100),
        outputs(teacher.model, distiller.teacher_layouts, teacher.attention, seed=200),
    )


def perfect(distiller, teacher, noise=0.0):
    """Outputs of a student that gives what the teacher gives, but for some noise."""
    own = both(distiller)[0]

    def near(features, seed):
        return features + noise * normal(*features.shape, seed=seed)

    logits = near(teacher.logits, 7)
    pairs = list(zip(distiller.layers.student, distiller.layers.teacher, strict=True))
    attention = None
    if distiller.attention is not None and teacher.attention:
        (seen,) = teacher.attention.values()
        attention = {distiller.attention.block: near(seen, 8).abs()}
    elif distiller.attention is not None:
        attention = own.attention
    return Outputs(
        logits=logits,
        tokens={mine: near(teacher.tokens[its], mine) for mine, its in pairs},
        heads=(logits, logits),
        attention=attention,
        class_tokens={mine: near(teacher.class_tokens[its], 50 + mine) for mine, its in pairs},
        features=own.features,
        images=own.images,
    )


def terms(distiller, student, teacher, targets):
    distiller.sampling.manual_seed(0)
    return distiller.terms(student, teacher, targets)


def test_the_table_names_every_method_and_its_terms():
    assert set(VANISHING) == set(METHODS)
    assert all(VANISHING[method] <= TERMS[method] for method in METHODS)


@every_method
def test_loss_ignores_the_order_of_the_batch(build, method):
    distiller, (images, targets) = exact(build, method), batch()
    order = torch.tensor([2, 0, 5, 3, 1, 4])
    expected, moved = (
        {name: result[name].item() for name in (*TERMS[method], "loss")}
        for result in (distiller(images, targets), distiller(images[order], targets[order]))
    )
    assert moved == pytest.approx(expected, rel=1e-9)
    apart = distiller(images[order], targets)["loss"].item()
    assert apart != pytest.approx(expected["loss"], rel=1e-6)  # all have labels at this alpha


@every_method
def test_gradient_is_that_of_the_value(build, method):
    """Along a random direction of all that is trained, from the images on."""
    distiller, (images, targets) = exact(build, method), batch()
    trained = list(distiller.parameters())

    def value(pixels):
        result = distiller(pixels, targets, [7])
        return sum(result[name] for name in sorted(TERMS[method] - STOPPED.get(method, set())))

    value(images).backward()
    gradient = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
    )
    direction = normal(len(gradient), seed=3)
    place, step = parameters_to_vector(trained).detach(), 1e-6
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            vector_to_parameters(place + sign * step * direction, trained)
            values.append(value(images.clone()).item())
    slope = (values[0] - values[1]) / (2 * step)
    assert (gradient @ direction).item() == pytest.approx(slope, rel=1e-5)


@every_method
def test_perfect_student_brings_to_zero_what_the_formula_says_and_nothing_else(build, method):
    distiller = exact(build, method, pairs=AS_WIDE_AS_THE_TEACHER)
    _, teacher = both(distiller)
    _, targets = batch()
    found = terms(distiller, perfect(distiller, teacher), teacher, targets)
    # DIST's authors have 1e-8 in the divisor of the correlation, which keeps it a little below 1.
    assert {name for name, value in found.items() if abs(value.item()) < 1e-5} == VANISHING[method]
    exactly = {name for name in VANISHING[method] if not method.startswith("dist")}
    assert all(abs(found[name].item()) < 1e-12 for name in exactly)


@pytest.mark.parametrize("method", [*MANIFOLD, "sp", "cka"])
def test_loss_ignores_an_orthogonal_map_of_either_networks_channels(build, method):
    distiller = exact(build, method)
    student, teacher = both(distiller)
    _, targets = batch()
    expected = test_methods.values(terms(distiller, student, teacher, targets))
    for net in (student, teacher):
        for block, tokens in net.tokens.items():
            rotation = torch.linalg.qr(normal(*tokens.shape[-1:] * 2, seed=block)).Q
            net.tokens[block] = tokens @ rotation
    found = test_methods.values(terms(distiller, student, teacher, targets))
    assert found == pytest.approx(expected, rel=1e-9)


# ---- precision -------------------------------------------------------------------------------

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@HALVES
@every_method
def test_terms_and_gradient_under_autocast_are_close_to_float32(build, method, dtype):
    distiller = build(method, **NO_DROP_PATH)
    with torch.no_grad():  # decisions that are far from even
        for network in (distiller.trainable_module, distiller.teacher.model):
            network.head.weight.mul_(20)
    images, labels = test_methods.batch()
    found, gradients = [], []
    for enabled in (False, True):
        distiller.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            result = distiller(images.clone(), labels, [7])
        result["loss"].backward()
        found.append({name: result[name].item() for name in TERMS[method]})
        grown = [parameter.grad for parameter in distiller.parameters()]
        assert all(gradient.isfinite().all() for gradient in grown)
        gradients.append(torch.cat([gradient.flatten() for gradient in grown]))
        assert {result[name].dtype for name in TERMS[method]} == {torch.float32}
    assert found[1] == pytest.approx(found[0], rel=0.1)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


@HALVES
@pytest.mark.parametrize("method", [method for method in METHODS if VANISHING[method]])
def test_small_difference_does_not_underflow_in_half_precision(build, method, dtype):
    """Outputs in half precision, a few of its steps apart, against float64 of the same outputs."""
    distiller = exact(build, method, pairs=AS_WIDE_AS_THE_TEACHER)
    _, targets = batch()
    teacher = both(distiller)[1].map(lambda features: features.to(dtype))
    student = perfect(distiller, teacher.map(torch.Tensor.double), noise=0.03)
    student = student.map(lambda features: features.to(dtype))
    halves = [student, teacher]
    expected = terms(distiller, *(net.map(torch.Tensor.double) for net in halves), targets)
    with torch.autocast("cpu", dtype=dtype):
        distiller.teacher.float()
        found = terms(distiller.float(), *halves, targets)
    for name in VANISHING[method]:
        assert expected[name].item() > 0
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.05), name


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name not in WITHOUT_TEACHER])
def test_outputs_of_two_batches_are_refused_with_both_shapes(build, method):
    distiller = exact(build, method)
    student, teacher = both(distiller)
    _, targets = batch()
    for images in (1, BATCH - 1):  # the first would broadcast
        other = teacher.map(lambda features, images=images: features[:images])
        with pytest.raises(ValueError, match=rf"student \({BATCH}, .*teacher \({images}, "):
            terms(distiller, student, other, targets)


@every_method
def test_targets_of_another_batch_are_refused_with_both_shapes(build, method):
    distiller, (images, _) = build(method), test_methods.batch()
    for shape in ((BATCH - 1,), (1, CLASSES), (BATCH, CLASSES + 1)):
        with pytest.raises(ValueError) as error:
            distiller(images, torch.zeros(shape))
        assert f"targets {shape}" in str(error.value)
        assert f"logits {(BATCH, CLASSES)}" in str(error.value)
