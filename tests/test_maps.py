"""Relation maps and agreement: distances, counts, what is cut out of a batch, words, errors."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from safetensors.numpy import load_file

from benchmarks.maps import PARTS, TEACHER, Maps, measure
from benchmarks.maps.figure import Batch, draw
from benchmarks.maps.table import QUANTITIES, summarise
from manifold.distiller import FrozenTeacher
from manifold.errors import UserError
from manifold.losses import decoupled_manifold_loss, full_manifold_loss
from manifold.models import create_model
from manifold.settings import UNTRAINED, LayerMap, resolve
from manifold.training.data import evaluation_transform, load_splits
from manifold.training.runs import build_distiller, student_setting
from manifold.training.train import train
from manifold.training.untrained import initialise

STUDY = {"pair": "untrained-teacher", "epochs": 1, "methods": ["soft_kd", "manifold"]}
LAYERS = LayerMap(student=[0, 3], teacher=[1, 4])


def tokens(seed, channels, images=3, count=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, count, channels, generator=generator)


@pytest.fixture(scope="module")
def networks():
    """A teacher and a student that know nothing, of the smoke scale."""
    pair = resolve({"scale": "smoke"}).pairs["deit-cait"]
    torch.manual_seed(0)
    teacher = FrozenTeacher(create_model(pair.teacher.model, (1, 8, 8), 10), 196)
    teacher.watch(LAYERS.teacher)
    return teacher, create_model(pair.student, (1, 8, 8), 10).eval()


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 1, 8, 8, generator=generator), torch.arange(size)) for size in sizes]


# ---- what is measured ------------------------------------------------------------------------


def test_predictions_are_counted_as_by_hand():
    logits = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [0, 3, 0]])
    teacher = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 3, 0], [3.0, 0, 0]])
    totals = measure.Totals(batches=1)
    totals.add_predictions(logits, teacher, labels=torch.tensor([0, 0, 2, 1]))
    found = totals.shown(LayerMap.model_construct(student=[], teacher=[]))
    # Student right on images 0, 2 and 3; same choice on 0 and 1; teacher wrong on 1, 2 and 3.
    assert (found["top1"], found["agreement"]) == (75, 50)
    assert found["agreement_on_errors"] == pytest.approx(100 / 3)
    own, other = logits.log_softmax(1), teacher.log_softmax(1)
    assert found["kl"] == pytest.approx(
        float((other.exp() * (other - own)).sum(1).mean()), rel=1e-6
    )


def test_a_teacher_that_is_never_wrong_shares_no_errors():
    totals = measure.Totals(batches=1)
    totals.add_predictions(torch.eye(3), torch.eye(3), torch.arange(3))
    assert (
        totals.shown(LAYERS.model_construct(student=[], teacher=[]))["agreement_on_errors"] is None
    )


def test_distances_are_the_losses_of_whole_batches(networks):
    teacher, student = networks
    data = batches(6, 6, 2)
    totals = measure.compare(teacher, {"s": student}, data, LAYERS, batch=6, samples=20, seed=0)
    found = totals["s"].shown(LAYERS)
    assert (totals["s"].batches, totals["s"].images) == (2, 14)
    wanted = dict.fromkeys(PARTS, 0.0)
    for number, (images, _) in enumerate(data[:2]):
        own = measure.forward_with_tokens(student, images, [3], 196).tokens[3]
        other = teacher(images).tokens[4]
        rows = measure.drawn_rows(6 * 16, 20, 0, number)
        for part, value in zip(
            PARTS,
            (
                *decoupled_manifold_loss(own, other, rows),
                full_manifold_loss(own, other),
                decoupled_manifold_loss(own, other[[5, 0, 1, 2, 3, 4]], rows)[0],
            ),
            strict=True,
        ):
            wanted[part] += value.item() / 2
    last = found["layers"][1]
    assert (last["student_block"], last["teacher_block"]) == (3, 4)
    assert {part: last[part] for part in PARTS} == pytest.approx(wanted, rel=1e-5)


def test_a_teacher_is_at_no_distance_from_itself(networks):
    teacher, _ = networks
    totals = measure.compare(teacher, {}, batches(4), LAYERS, batch=4, samples=8, seed=0)
    found = totals[TEACHER].shown(LAYERS)
    assert (found["agreement"], found["kl"]) == (100, pytest.approx(0, abs=1e-6))
    for blocks in found["layers"]:
        assert [blocks[part] for part in PARTS[:-1]] == pytest.approx([0] * 4, abs=1e-10)
        assert blocks["other"] > 1e-6


def test_images_and_tokens_are_drawn_alike_each_time():
    images = load_splits(resolve({"scale": "smoke"}).data).test
    order = measure.in_drawn_order(images, 50, seed=3).indices
    assert len(set(order)) == 50 and set(order) <= set(images.indices)
    assert list(order) == list(measure.in_drawn_order(images, 50, seed=3).indices)
    assert list(order) != list(measure.in_drawn_order(images, 50, seed=4).indices)
    rows = measure.drawn_rows(96, 24, 0, "shown")
    assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == 24
    assert measure.drawn_rows(10, 24, 0, 1).tolist() == list(range(10))


# ---- what the figures show -------------------------------------------------------------------


def test_the_parts_of_a_batch_are_what_the_losses_compare():
    own, other = tokens(0, 5), tokens(1, 7)
    rows = torch.tensor([1, 4, 6, 11])
    maps = (measure.relation_map(each.flatten(0, 1)) for each in (own, other))
    difference = np.subtract(*(each.numpy() for each in maps))
    parts = Batch(images=3, rows=rows.numpy()).parts(difference)
    means = {name: np.nanmean(part**2) for name, part in parts.items()}
    losses = [full_manifold_loss(own, other), *decoupled_manifold_loss(own, other, rows)]
    assert list(means) == ["full", "intra", "inter", "random"]
    assert list(means.values()) == pytest.approx([loss.item() for loss in losses], rel=1e-5)


def test_dots_are_of_every_seed_and_what_is_far_off_is_told():
    names = [UNTRAINED, "soft_kd", "manifold", "fitnet", "sp"]
    values = {UNTRAINED: 9.0, "soft_kd": 86.0, "manifold": 90.0, "fitnet": 89.0, "sp": 88.0}
    seeds = pd.DataFrame(
        {"method": name, "seed": seed, **dict.fromkeys(QUANTITIES, values[name] + seed)}
        for name in names
        for seed in range(3)
    )
    rows = pd.DataFrame(
        {
            "method": name,
            "title": name.upper(),
            **{f"{key}_mean": values[name] + 1 for key in QUANTITIES},
            **{f"{key}_low": values[name] for key in QUANTITIES},
            **{f"{key}_high": values[name] + 2 for key in QUANTITIES},
        }
        for name in names
    )
    axes = draw(rows, seeds, "soft_kd", "caption").axes
    assert [axis.get_xscale() for axis in axes] == ["log", "log", "linear", "linear"]
    assert "10.0 [9.0, 11.0]" in [text.get_text() for text in axes[2].findobj(Text)]
    dots = [line for line in axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [3] * len(names)


# ---- the table -------------------------------------------------------------------------------


def test_differences_are_by_seed_and_the_untrained_student_is_of_no_family(experiment):
    study = experiment(maps={"methods": ["none", "soft_kd", "manifold"]}).studies["maps"]
    base = {UNTRAINED: 1.0, "none": 0.5, "soft_kd": 0.4, "manifold": 0.1}
    noise = [0.00, 0.02, 0.05]
    seeds = pd.DataFrame(
        {
            **{"method": name, "seed": seed, "top1": 50.0, "other": value + 0.3},
            **dict.fromkeys(("intra", "inter", "random", "full", "kl"), value + shift),
            **dict.fromkeys(("agreement", "agreement_on_errors"), 50 * (1 - value) + shift),
        }
        for name, value in base.items()
        for seed, shift in enumerate(noise)
    )
    rows = summarise(seeds, study).set_index("method")
    assert rows.loc["manifold", "intra_change_mean"] == pytest.approx(-0.3)
    assert rows.loc["manifold", "intra_learnt_mean"] == pytest.approx(-0.9)
    assert rows.loc["manifold", "own_image_mean"] == pytest.approx(0.3 - np.mean(noise))
    assert rows["intra_p_holm"].notna().sum() == 2
    assert rows.loc[[UNTRAINED, "soft_kd"], "intra_change_mean"].isna().all()
    without = summarise(seeds.assign(agreement_on_errors=None), study)
    assert "agreement_on_errors_mean" not in without


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"methods": ["soft_kd", "manifold"], "baseline": "sp"}, "maps.baseline: unknown 'sp'"),
        ({"layers": "papr"}, "Did you mean 'paper'"),
        ({"shown_methods": ["sp", "sp"]}, "maps.shown_methods"),
        ({"batch": 1}, "maps.batch must be at least 2"),
        ({"shown_batch": 17}, "maps.shown_batch must lie in [2, 16]"),
        ({"images": 1}, "maps.images must be at least 2"),
        ({"recipe": "Z"}, "maps.recipe: unknown 'Z'"),
        ({"pair": "Z"}, "maps.pair: unknown 'Z'"),
    ],
)
def test_settings_that_no_run_can_use_are_refused(experiment, section, words):
    with pytest.raises(UserError) as error:
        experiment(maps=section)
    assert words in str(error.value)


def test_blocks_that_are_not_there_stop_this_study_alone(experiment):
    made = experiment(maps={"shown_layers": 4})
    with pytest.raises(UserError, match=r"maps\.shown_layers must be below 4"):
        made.studies["maps"].preflight()
    experiment().studies["maps"].preflight()
    layers = {"layers": {"other": {"student": [0], "teacher": [99]}}}
    made = experiment(maps={"layers": "other", "shown_layers": 0}, pairs={"deit-cait": layers})
    with pytest.raises(UserError, match="99"):
        made.studies["maps"].preflight()


def test_only_what_shapes_the_numbers_measures_again(experiment):
    def identity(**maps):
        return experiment(maps=maps).studies["maps"].measure_identity(0)

    assert identity() == identity(baseline="none") == identity(shown_methods=["none"])
    assert identity() != identity(batch=32)


def test_the_figures_show_what_is_measured_of_what_is_asked_for(experiment):
    def drawn(**maps):
        return experiment(maps=maps).studies["maps"].drawn

    assert drawn(shown_methods=["sp", "manifold", "soft_kd"]) == ["manifold", "soft_kd"]
    assert drawn(shown_methods=["sp"]) == ["none", "soft_kd", "manifold"]
    assert Maps.shown == ("In words",)  # of the docs


# ---- the whole study -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Students of one epoch, whose teacher knows nothing, carried through the whole study."""
    folder = str(tmp_path_factory.mktemp("study"))
    made = resolve({"scale": "smoke", "results": folder, "maps": STUDY})
    initialise(made, STUDY["pair"])
    for seed in made.seeds:
        train(*student_setting(made, STUDY["pair"], "A", 1, STUDY["methods"], seed))
        measure.run(made, seed)
    return made.studies["maps"]


def record_of(study, seed):
    return json.loads((study.directory(seed) / "maps.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_numbers_are_those_of_the_students_records(study):
    for seed in study.seeds:
        found = record_of(study, seed)
        for method in STUDY["methods"]:
            path = study.experiment.cell_directory(STUDY["pair"], "A", 1, method, seed)
            run = json.loads((path / "run.json").read_text(encoding="utf-8"))
            assert found["networks"][method]["top1"] == pytest.approx(run["result"]["top1"])
    document = study.build()
    assert "Scale smoke" in document.caption and "n = 2 paired seeds" in document.caption
    assert set(document.csv[""]["method"]) == {UNTRAINED, *STUDY["methods"]}


@pytest.mark.slow
def test_the_untrained_student_is_the_one_that_a_training_starts_from(study):
    experiment, seed = study.experiment, 1
    setting, (cell,) = student_setting(experiment, STUDY["pair"], "A", 1, ["none"], seed)
    student = build_distiller(setting, cell, None, classes=10).trainable_module.eval()
    images = measure.in_drawn_order(load_splits(experiment.data).test, 4, study.settings.seed)
    images = images.transformed(evaluation_transform(experiment.data))
    seen = torch.stack([images[place, None][0] for place in range(4)])
    with torch.no_grad():
        own = measure.forward_with_tokens(student, seen, [3], 196).tokens[3]
    found = load_file(study.directory(seed) / "maps.safetensors")
    assert found[f"{UNTRAINED}.images"] == pytest.approx(measure.relation_map(own), abs=1e-5)


@pytest.mark.slow
def test_what_is_there_stays_and_another_student_is_refused(study, capsys):
    path = study.directory(0) / "maps.json"
    before = path.read_bytes()
    measure.run(study.experiment, 0)
    assert "is complete" in capsys.readouterr().err and path.read_bytes() == before
    folder = study.experiment.cell_directory(STUDY["pair"], "A", 1, "manifold", 0)
    weights = folder / "student.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-4] + bytes(4))
        with pytest.raises(UserError, match="of another configuration, teacher or student"):
            study.build()
        weights.unlink()
        with pytest.raises(UserError, match="no weights there"):
            study.build()
    finally:
        weights.write_bytes(kept)
