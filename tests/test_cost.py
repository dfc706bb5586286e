"""The cost study: its forms are the suite's losses, its ratios are taken round by round."""

import json
import os
import signal

import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from benchmarks.cost import forms, losses, steps, table, work
from benchmarks.cost.figure import draw
from benchmarks.cost.memory import peak_bytes
from manifold.errors import UserError
from manifold.settings import write_experiment

COST = {"losses": {"batches": [2, 3], "most_pairwise": 2, "rounds": 2, "tokens": 4}}


@pytest.fixture
def study(experiment):
    return experiment(cost=COST).studies["cost"]


def environment(device="cpu"):
    packages = {"torch": "2"}
    return {"processor": "a processor", "device": device, "threads": 1, "packages": packages}


@pytest.fixture
def measured(study):
    """A study with made-up times: of each form, method and cohort in two rounds."""

    def each(form, batch, *seconds):
        peak = {"pairwise": 50, "full": 2}.get(form, 4) * 2**20
        return {"form": form, "batch": batch, "seconds": seconds, "peak_bytes": peak}

    found = [
        each("pairwise", 2, 8.0, 12.0),
        each("full", 2, 2.0, 6.0),
        each("reference", 2, 3.0, 2.0),
        each("decoupled", 2, 2.0, 1.0),
        each("full", 3, 3.0, 3.0),
        each("reference", 3, 4.0, 4.0),
        each("decoupled", 3, 2.0, 2.0),
    ]
    methods = study.settings.steps.methods
    alone = {name: [2.0, 4.0] for name in methods} | {"manifold": [3.0, 5.0]}
    content = {
        "losses": {"environment": environment(), "measurements": found},
        "steps": {
            "environment": environment(),
            "alone": alone,
            "teacher": [1.0, 1.0],
            "teacher_precisions": {"float32": [1.0, 1.0], "bfloat16": [0.5, 0.7]},
            "peaks": [
                *({"methods": [name], "peak_bytes": 2**20} for name in methods[1:]),
                {"methods": methods[:1], "peak_bytes": 3 * 2**20},
                {"methods": methods[:2], "peak_bytes": 4.5 * 2**20},
            ],
            "held_bytes": dict.fromkeys(methods, 0.75 * 2**20),
            "uses_teacher": [name for name in methods if name != "none"],
            "cohorts": [
                {"members": 1, "seconds": [2.0, 4.0]},
                {"members": 2, "seconds": [3.0, 4.0]},
            ],
            "products": [0.001, 0.001],  # 2·64³ operations each: 0.524 GFLOP/s
            "operations": {name: 3 * 2 * 64**3 for name in methods},
            "operations_of_teacher": 2 * 64**3,
            "operators": {"addmm": 6.0, "mm": 2.0, "copy": 1.0, "add": 0.75, "fill": 0.25},
        },
    }
    for part, value in content.items():
        study.measured_file(part).parent.mkdir(parents=True, exist_ok=True)
        study.measured_file(part).write_text(json.dumps(value), encoding="utf-8")
    return study


# ---- the forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "ours"), [("reference", "decoupled"), ("pairwise", "full")], ids=str
)
def test_what_is_compared_is_one_loss(study, plain, ours):
    drawn = losses.draw(study.settings.losses, 3, torch.device("cpu"))
    drawn = [each.double() if each.is_floating_point() else each for each in drawn]
    values = [forms.FORMS[form](*drawn).item() for form in (plain, ours)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    gradients = [losses.differentiate(form, *drawn) for form in (plain, ours)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
    assert gradients[0].abs().max() > 1e-4


def test_the_papers_count_of_products():
    count = {"batch": 128, "tokens": 196, "channels": 192, "samples": 192}
    assert table.products("full", **count) == (128 * 196) ** 2 * 192
    by_terms = 128 * 196**2 + 196 * 128**2 + 192**2
    assert table.products("reference", **count) == by_terms * 192
    assert table.products("decoupled", **count) == table.products("reference", **count)


def test_not_all_pairs_are_formed_for_a_large_batch(study):
    shapes = study.settings.losses
    assert "pairwise" in losses.forms_at(shapes, 2)
    assert losses.forms_at(shapes, 3) == ["full", "reference", "decoupled"]


# ---- the tables --------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round(measured):
    rows = table.measure(measured).rows.set_index(["part", "what", "size"])
    reference = rows.loc[("loss", "reference", 2)]
    assert reference["milliseconds_median"] == 2500
    assert reference["ratio_median"] == pytest.approx((3 / 2 + 2 / 1) / 2)
    assert (rows["ratio_low"].dropna() <= rows["ratio_high"].dropna()).all()
    manifold = rows.loc[("step", "manifold", 1)]
    assert manifold["ratio_median"] == pytest.approx((3 / 2 + 5 / 4) / 2)
    assert rows.loc[("step", "soft_kd", 1), "ratio_median"] == 1
    assert rows.loc[("step", f"{table.TEACHER}, bfloat16", 1), "milliseconds_median"] == 600
    assert pd.isna(rows.loc[("step", f"{table.TEACHER}, float32", 1), "ratio_median"])


def test_a_cohort_is_held_to_its_members_apart(measured):
    rows = table.measure(measured).rows
    rows = rows[rows["part"] == "cohort"].set_index("size")
    assert rows.loc[2, "ratio_median"] == pytest.approx((3 / 4 + 4 / 8) / 2)
    # Of none and soft_kd one asks the teacher: there is no second pass to be saved.
    assert rows.loc[2, "limit"] == 1
    assert rows.loc[2, "peak_over_heaviest"] == 1.5
    # None takes 3 MiB alone; the other keeps 0.75 between its steps.
    assert rows.loc[2, "memory_limit"] == 1.25
    assert rows.loc[1, "memory_limit"] == 1


def test_operations_take_the_time_of_so_many_products(measured):
    rows = table.measure(measured).rows.set_index(["part", "what", "size"])
    teacher = rows.loc[("step", f"{table.TEACHER}, float32", 1)]
    assert teacher["milliseconds_at_rate"] == pytest.approx(1)
    assert teacher["gigaoperations"] == pytest.approx(2 * 64**3 / 1e9)
    assert rows.loc[("step", "manifold", 1), "milliseconds_at_rate"] == pytest.approx(3)
    assert rows.loc[("cohort", "cohort", 2), "milliseconds_at_rate"] == pytest.approx(6)
    assert rows.loc[("product", "product", 64), "milliseconds_median"] == 1


def test_a_pass_that_a_cohort_saves_is_not_counted(measured):
    path = measured.measured_file("steps")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["uses_teacher"] = measured.settings.steps.methods
    path.write_text(json.dumps(content), encoding="utf-8")
    rows = table.measure(measured).rows.set_index(["part", "what", "size"])
    assert rows.loc[("cohort", "cohort", 2), "milliseconds_at_rate"] == pytest.approx(3 + 3 - 1)


def test_operators_that_are_not_named_are_one_row(measured):
    rows = table.measure(measured).rows
    rows = rows[rows["part"] == "operator"].set_index("what")["share"]
    assert dict(rows) == {"addmm": 0.6, "mm": 0.2, "copy": 0.1, table.OTHERS: 0.1}


@pytest.mark.slow
def test_the_document_has_every_form_method_and_cohort(measured):
    measured.write()
    folder = measured.experiment.directory
    assert all((folder / f"cost{suffix}").stat().st_size for suffix in measured.suffixes)
    text = (folder / "cost.md").read_text(encoding="utf-8")
    assert all(title in text for title in table.SHOWN.values())
    assert "recipe A in float32, " in text
    assert "a processor" in text and "2.5 times its time, 25 times its peak memory" in text
    rows = pd.read_csv(folder / "cost.csv")
    assert "the teacher's pass, bfloat16, takes 0.60 of it in float32" in text
    assert "1.50 of the memory of its heaviest member alone" in text
    assert "and nothing else, would make it 1.25" in text
    assert "at the 1 GFLOP/s of a product of 64³ here, would take 0.00 of that time" in text
    timed = rows[rows["part"] != table.OPERATORS]
    assert len(timed) == 7 + 2 + len(measured.settings.steps.methods) + 2 + 1
    assert len(pd.read_csv(folder / "cost_rounds.csv")) == 2 * len(timed)
    found = table.measure(measured)
    figure = draw(found, "a caption")
    figure.canvas.draw()
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert {*measured.settings.steps.methods, *table.SHOWN.values()} <= shown


@pytest.mark.parametrize("content", [None, "{"])
def test_measurements_that_are_missing_or_damaged_are_named(measured, content):
    path = measured.measured_file("steps")
    path.unlink()
    if content:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"cost/steps\.json is missing or damaged"):
        measured.build()


# ---- what no run can use -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": {"baseline": "dkd"}}, "cost.steps.baseline 'dkd'"),
        ({"steps": {"members": [1, 99]}}, "cost.steps.members holds 99"),
        ({"steps": {"methods": ["soft_kd", "manifolt"]}}, "Did you mean 'manifold'"),
        ({"steps": {"pair": "deit-cat"}}, "Did you mean 'deit-cait'"),
        ({"steps": {"profiled": 99}}, "cost.steps.profiled is 99"),
        ({"losses": {"batches": [8]}}, "cost.losses.batches"),
        ({"losses": {"rounds": 0}}, "cost.losses.rounds"),
        ({"losses": {"most_pairwise": 1}}, "cost.losses.most_pairwise is 1, and the smallest"),
        ({"steps": {"members": []}}, "cost.steps.members"),
        ({"steps": {"teacher_precisions": []}}, "cost.steps.teacher_precisions"),
    ],
)
def test_a_setting_that_no_run_can_use_is_refused(experiment, section, message):
    with pytest.raises(UserError, match=message):
        experiment(cost=section)


def test_ones_own_method_is_measured_too_unless_methods_are_listed(experiment):
    sp = {"title": "Mine", "distiller": "baselines.sp:SimilarityPreserving"}
    more = {"student": "student", "source": "mine", "arguments": {"layers": "paper", "weight": 1.0}}
    mine = {"mine": {**sp, **more}}
    joined = experiment(method_definitions=mine)
    assert joined.cost.steps.methods == [*experiment().cost.steps.methods, "mine"]
    listed = experiment(method_definitions=mine, cost={"steps": {"methods": ["none", "soft_kd"]}})
    assert listed.cost.steps.methods == ["none", "soft_kd"]


# ---- measuring ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_measured_and_written(study):
    losses.run(study.experiment)
    steps.run(study.experiment)
    study.write()
    rows = pd.read_csv(study.experiment.directory / "cost.csv")
    operators = rows[rows["part"] == table.OPERATORS]
    assert len(operators) == 3 + 1 and operators["share"].sum() == pytest.approx(1)
    rows = rows.drop(operators.index)
    assert (rows["milliseconds_median"] > 0).all()
    counted = rows[(rows["part"] != "loss") & (rows["what"] != f"{table.TEACHER}, bfloat16")]
    assert (counted["gigaoperations"] > 0).all()
    assert set(rows["what"]) == {
        *forms.FORMS,
        *study.settings.steps.methods,
        *(f"{table.TEACHER}, {precision}" for precision in ("float32", "bfloat16")),
        "cohort",
        "product",
    }
    assert (rows["peak_mebibytes"] > 0)[rows["part"] != "loss"].any()


def test_a_member_keeps_its_weights_their_average_and_two_moments(study):
    settings = study.settings.steps
    members, teacher = steps.build(study.experiment, settings, torch.device("cpu"), ["soft_kd"])
    (member,) = members
    images = torch.zeros(2, *study.experiment.data.image_shape)
    targets = torch.full((2, settings.classes), 1 / settings.classes)
    steps.Cohort(members, teacher).step(images, targets, 0)
    student = member.distiller.get_trainable_module()
    weights = sum(p.nbytes for p in student.parameters())
    counts = 4 * len(list(student.parameters()))  # AdamW's step, a float32 of each tensor
    kept = 4 * weights + 2 * sum(b.nbytes for b in student.buffers()) + counts
    assert steps.held_bytes(member) == kept


def test_memory_is_measured_with_a_batch_of_its_own(experiment, monkeypatch):
    own = {**COST, "steps": {"images": 3, "memory_images": 5}}
    sizes = []
    monkeypatch.setattr(steps.Cohort, "step", lambda _, images, *__: sizes.append(len(images)))
    file = write_experiment(experiment(cost=own))
    assert list(steps.two_steps(file, ["none"], torch.device("cpu"))) == [None]
    assert sizes == [5, 5]


def killed():
    yield
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_was_killed_while_measured_is_told():
    with pytest.raises(UserError, match=r"\(killed\) ended with exit code -9; .*memory_images"):
        peak_bytes(killed, device=torch.device("cpu"))


@pytest.mark.slow
def test_the_peak_grows_with_the_map_that_is_formed(study):
    shapes = study.settings.losses.replaced(tokens=64)
    cpu = torch.device("cpu")
    peaks = {
        form: peak_bytes(losses.one_gradient, shapes, 32, form, cpu, device=cpu)
        for form in forms.FORMS
    }
    # One map of (32·64)² float32 numbers is 16 MiB; its difference and square are formed too.
    assert peaks["pairwise"] > 3 * 16 * 2**20 > 4 * peaks["full"]


def test_operations_are_counted_by_hand():
    """A product, one attention (two products a head), and what its kernel on a CPU would hide."""
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert work.operations(lambda: left @ right) == 2 * 3 * 5 * 7
    heads = torch.ones(2, 4, 6, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert work.operations(lambda: attention(heads, heads, heads)) == 2 * (2 * 4 * 6 * 6 * 8) * 2
