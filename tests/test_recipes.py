"""Method, recipe and budget: cohorts, gains, variance shares, and the public runs next to them."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence.registered import words
from benchmarks.evidence.statistics import holm
from benchmarks.evidence.words import capital
from benchmarks.recipes import measure as recipes
from benchmarks.recipes import text
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import ROOT, fingerprint, resolve, to_plain
from manifold.training.records import evaluation_path

SEEDS = [0, 1, 2]
GRID = {"epochs": [1, 2], "methods": ["soft_kd", "fitnet", "manifold"]}
JOINT, UPDATES = "recipe B (mixing, batch and rate together)", "batch at equal updates"
FACTORS = {JOINT: ("B", 1), UPDATES: ("A-2x", 2)}
TWICE = {"extends": "config/recipes/smoke.yaml", "batch_size": 256}


def top1_of(method, recipe, budget, seed):
    """Soft KD at 70 plus seed; the gain of `manifold` is 4, 1 after two epochs; FitNet has none.

    FitNet ends under A-2x as under A.
    """
    gain = {"soft_kd": 0.0, "manifold": 4.0 if budget == 1 else 1.0, "fitnet": 0.5 * (seed - 1)}
    of_recipe = 0 if method == "fitnet" else -1
    shift = {"A": 0, "B": 2, "A-2x": of_recipe}[recipe]
    return 70.0 + seed + shift + 0.1 * seed * (method == "manifold") + gain[method]


@pytest.fixture
def finished(tmp_path):
    """An experiment whose study's cells stand on disk."""
    teacher = tmp_path / "teacher.safetensors"
    teacher.write_bytes(b"weights")
    made = resolve(
        {
            "scale": "smoke",
            "results": str(tmp_path),
            "name": "study",
            "seeds": SEEDS,
            "pairs": {"deit-cait": {"teacher": {"weights": str(teacher)}}},
            "recipes": {"A-2x": TWICE},
            "recipe_study": GRID | {"factors": {UPDATES: {"recipe": "A-2x", "epochs_factor": 2}}},
            "budgets": GRID | {"recipes": ["A"]},
        }
    )
    digest = sha256(teacher)
    path = evaluation_path(made, "deit-cait")
    path.parent.mkdir(parents=True)
    measured = {"top1": 88.0, "validation_top1": 77.0, "split": "test", "sha256": digest}
    path.write_text(json.dumps(measured), encoding="utf-8")
    arms = [("A", 1), *FACTORS.values()]
    for (recipe, factor), budget, method, seed in itertools.product(arms, *GRID.values(), SEEDS):
        epochs = budget * factor
        key = ("deit-cait", recipe, epochs, method, seed)
        identity = {**made.cell_identity(*key), "teacher_sha256": digest}
        record = {
            "fingerprint": fingerprint(identity),
            "result": {
                "top1": top1_of(method, recipe, budget, seed),
                "split": "test",
                "images": 360,
            },
            "images_seen": 1216 * epochs,
            "teacher_sha256": digest,
            "environment": {"git_commit": "c0ffee"},
        }
        path = made.cell_directory(*key) / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record), encoding="utf-8")
        held_out = f"epoch,validation_top1\n1,0\n{epochs},{70 + seed}\n"
        path.with_name("metrics.csv").write_text(held_out, encoding="utf-8")
    return made


def test_gains_are_over_the_baseline_of_the_same_recipe_and_budget(finished):
    rows = recipes.measure(finished.studies["recipes"]).rows.set_index(
        ["recipe", "budget", "method"]
    )
    assert len(rows) == 18 and (rows["n"] == 3).all()
    for recipe in ("A", "B", "A-2x"):
        assert rows.loc[(recipe, 1, "manifold"), "gain_mean"] == pytest.approx(4.1)
        assert rows.loc[(recipe, 2, "manifold"), "gain_mean"] == pytest.approx(1.1)
        assert pd.isna(rows.loc[(recipe, 1, "soft_kd"), "gain_mean"])
    assert rows.loc[("B", 2, "soft_kd"), "top1_mean"] == pytest.approx(73.0)


def test_equal_updates_are_equal_and_equal_images_are_a_quarter_of_them():
    """And the warm-up is as many updates, not as many images."""
    made = resolve({"scale": "mini"})
    images = 60_000 - made.data.validation

    def updates(recipe, epochs):
        size = made.recipes[recipe].batch_size
        warmup = made.recipes[recipe].schedule.warmup_epochs
        return epochs * (images // size), warmup * (images // size)

    arms = {arm.factor: arm for arm in made.studies["recipes"].arms}
    own = updates("A", 1)
    for factor, share in (("images", 4), ("updates", 1)):
        arm = arms[f"batch and rate at equal {factor}"]
        found = updates(arm.recipe, arm.epochs_factor)
        assert found == pytest.approx([own[0] / share, own[1] / share], rel=0.005)


def test_a_factor_changes_what_it_is_called_by_and_nothing_else():
    study = resolve({"scale": "mini"}).studies["recipes"]
    changed = {arm.factor: set(study.changes(arm.recipe)) for arm in study.arms[1:]}
    batch = {"batch_size", "optimizer.learning_rate"}
    assert changed == {
        "mixing": {"mixing"},
        "weight α of the soft labels": {"distillation.alpha"},
        "batch and rate at equal images": batch,
        "batch and rate at equal updates": batch | {"schedule.warmup_epochs"},
    }
    paper = resolve({"scale": "imagenet"})
    assert to_plain(study.experiment.recipes["A-mixing"].mixing) == to_plain(
        paper.recipes["A"].mixing
    )
    (joint,) = paper.studies["recipes"].arms[1:]
    assert joint.recipe == "B" and set(paper.studies["recipes"].changes("B")) == {
        *batch,
        "mixing",
        "distillation.alpha",
    }


@pytest.mark.slow
def test_the_tables_name_the_factor_and_what_it_changes(finished):
    study = finished.studies["recipes"]
    study.write()
    said = (finished.directory / "recipes.md").read_text(encoding="utf-8")
    rows = re.sub(" +", " ", said)
    assert f"| {UPDATES} | A-2x | batch_size 256 instead of 128 | 2, 4 |" in rows
    assert f"| {UPDATES} | method × {UPDATES} |" in rows
    assert f"{UPDATES}: 4 epochs against 2" in said
    assert f"1 epoch: {UPDATES} (2 epochs) against recipe A" in said
    assert f"2 epochs: {JOINT} against recipe A" in said
    assert (
        f"{capital(UPDATES)}: does not reach FitNet, whose every run ends as under recipe A; what "
        "moves there is the baseline alone"
    ) in said
    assert f"{capital(JOINT)}: does not reach" not in said
    seen = [axes.get_legend() for axes in study.build().figures[""]("").axes]
    legend = next(each for each in seen if each is not None)
    assert [text.get_text() for text in legend.get_texts()] == [
        "Recipe A",
        capital(JOINT),
        capital(UPDATES),
    ]


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        (77.0, "+14.80 points on the test split and +5.00 points on the validation split."),
        (72.5, "+0.50 points on the validation split, so that it does not stay 1 point ahead of"),
        (None, "+14.80 points on the test split."),
    ],
)
def test_the_caption_says_how_far_the_teacher_is_ahead_of_every_student(
    finished, validation, expected
):
    path = evaluation_path(finished, "deit-cait")
    measured = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(measured | {"validation_top1": validation}), encoding="utf-8")
    caption = recipes.measure(finished.studies["budgets"]).caption
    assert expected in caption and "at the longest budget: +14.80 points" in caption


def test_without_claims_no_public_run_is_drawn(finished):
    study = finished.replaced(claims=None).studies["recipes"]
    assert study.reads() == []
    document = study.build()
    panels = [axes.get_title(loc="left") for axes in document.figures[""]("caption").axes]
    assert sum(bool(title) for title in panels) == 2 and not any("Public" in t for t in panels)


def test_the_words_follow_from_the_intervals(finished):
    study = recipes.measure(finished.studies["recipes"])
    changes = study.changes.set_index(["method", "question"])
    moved = changes.loc[("manifold", "recipe A: 2 epochs against 1")]
    assert moved["change_mean"] == pytest.approx(-3.0) and moved["gain"] == "smaller"
    assert changes.loc[("fitnet", "recipe A: 2 epochs against 1"), "gain"] == "undecided"
    assert set(changes.index.get_level_values("method")) == {"fitnet", "manifold"}
    said = "\n".join(text._in_words(study, finished.studies["recipes"]))
    assert "Recipe A, 1 epoch. ahead of Soft KD: Manifold, decoupled. undecided: FitNet" in said
    assert "all 2 comparisons, at p < 0.05: Manifold, decoupled\n" in said
    assert (
        f"{capital(JOINT)}: 2 epochs against 1. smaller gain: Manifold, decoupled. undecided: "
        "FitNet"
    ) in said


@pytest.mark.slow
def test_the_files_of_the_study(finished):
    finished.studies["recipes"].write()
    folder = finished.directory
    for name in ("md", "csv", "tex", "png", "pdf"):
        assert (folder / f"recipes.{name}").stat().st_size
    assert len(pd.read_csv(folder / "recipes_seeds.csv")) == 54
    assert len(pd.read_csv(folder / "recipes_variance.csv")) == 14
    assert len(pd.read_csv(folder / "recipes_changes.csv")) == 14
    text = (folder / "recipes.md").read_text(encoding="utf-8")
    assert "each with its own full schedule" in text and "n = 3 paired seeds" in text


@pytest.mark.slow
def test_budgets_are_the_study_of_one_recipe(finished):
    finished.studies["budgets"].write()
    folder = finished.directory
    assert not (folder / "budgets_variance.csv").exists()
    rows = pd.read_csv(folder / "budgets.csv")
    assert set(rows["recipe"]) == {"A"} and len(rows) == 6
    whole = recipes.measure(finished.studies["recipes"]).rows
    pd.testing.assert_frame_equal(
        rows[["method", "epochs", "gain_mean", "behind_teacher"]],
        whole.loc[whole["recipe"] == "A", ["method", "epochs", "gain_mean", "behind_teacher"]],
    )
    assert rows["behind_teacher"].tolist() == pytest.approx((88 - rows["top1_mean"]).tolist())
    said = (folder / "budgets.md").read_text(encoding="utf-8")
    assert "The teacher reaches 88.00 % (one run)" in said and "variance" not in said


@pytest.mark.slow
def test_two_methods_are_compared_at_each_budget(finished):
    finished.studies["budgets"].write()
    found = pd.read_csv(finished.directory / "budgets_contrasts.csv").set_index("epochs")
    assert found.loc[[1, 2], "difference_mean"].tolist() == pytest.approx([4.1, 1.1])
    assert found["n"].tolist() == [3, 3]
    assert (found["p"] == found["p_holm"]).all()  # one comparison a budget is no family
    said = (finished.directory / "budgets.md").read_text(encoding="utf-8")
    assert "p after Holm over these, within each recipe and budget. Ahead" in said
    assert "pair deit-cait, recipe A, budgets of 1 and 2 epochs, each with" in said
    assert "| Manifold, decoupled − FitNet |        1 |   3 | +4.10 [" in said
    assert not any("contrasts" in path.name for path in finished.studies["recipes"].files())


def test_budgets_with_the_stronger_teacher_are_runs_as_registered():
    made = resolve({"scale": "mini", "budgets": {"pair": "deit-strong-cait"}})
    study = made.studies["budgets"]
    assert study.teachers() == ["deit-strong-cait"]
    assert {pair for pair, _, _ in study.students()} == {"deit-strong-cait"}
    assert ", and made so; " in words(made, study.name, study.runs)
    assert resolve({"scale": "mini"}).budgets.pair == "deit-cait"


def test_changes_are_corrected_over_the_methods_of_a_question(finished):
    noise = np.random.default_rng(0)
    for path in sorted((finished.directory / "cells").rglob("run.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["result"]["top1"] += noise.normal()
        path.write_text(json.dumps(record), encoding="utf-8")
    changes = recipes.measure(finished.studies["recipes"]).changes
    for _, own in changes.groupby("question"):
        expected = holm(dict(zip(own["method"], own["p"], strict=True)))
        assert dict(zip(own["method"], own["p_holm"], strict=True)) == pytest.approx(expected)
    assert (changes["p_holm"] > changes["p"]).sum() >= 4


@pytest.mark.parametrize("key", ["epochs", "methods"])
def test_budgets_compare_two_of_each_but_one_recipe_is_enough(key):
    one = {"epochs": [2], "methods": ["soft_kd"]}[key]
    with pytest.raises(UserError, match=rf"budgets\.{key} must list at least two"):
        resolve({"scale": "smoke", "budgets": {key: one}})
    with pytest.raises(UserError, match=r"budgets\.recipes must list at least one different"):
        resolve({"scale": "smoke", "budgets": {"recipes": []}})
    words = (
        r"budgets\.methods: pair 'small-teacher' is not for none, fitnet; its methods are soft_kd"
    )
    with pytest.raises(UserError, match=words):
        own = {"pair": "small-teacher", "methods": ["none", "soft_kd", "fitnet", "manifold"]}
        resolve({"scale": "mini", "budgets": own})


def test_a_missing_cell_of_the_study_is_named(finished):
    path = finished.cell_directory("deit-cait", "B", 2, "fitnet", 1) / "run.json"
    path.unlink()
    with pytest.raises(UserError, match="B/2-epochs/fitnet/seed-1"):
        recipes.measure(finished.studies["recipes"])


# ---- variance --------------------------------------------------------------------------------


def runs(top1, seeds=(0, 1)):
    factors = itertools.product(seeds, ["a", "b", "c"], ["A", "B"], [1, 2, 4])
    frame = pd.DataFrame(factors, columns=["seed", "method", "recipe", "budget"])
    return frame.assign(top1=[top1(*row) for row in frame.itertuples(index=False)])


def shares(frame):
    table = recipes.variance_shares(frame, 0.95, "mixing").set_index("effect")
    return table["share_mean"].to_dict()


METHOD = {"a": -1, "b": 0, "c": 1}  # variance 2/3
RECIPE = {"A": -1, "B": 1}  # variance 1
BUDGET = {1: -2, 2: 0, 4: 2}  # variance 8/3


def test_additive_effects_are_told_apart():
    found = shares(runs(lambda s, m, r, e: 80 + s + METHOD[m] + RECIPE[r] + BUDGET[e]))
    total = 2 / 3 + 1 + 8 / 3
    assert found["method"] == pytest.approx(100 * (2 / 3) / total)
    assert found["mixing"] == pytest.approx(100 / total)
    assert found["budget"] == pytest.approx(100 * (8 / 3) / total)
    assert sum(found.values()) == pytest.approx(100)
    assert found["method × budget"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("top1", "effect"),
    [
        (lambda s, m, r, e: METHOD[m] * RECIPE[r], "method × mixing"),
        (lambda s, m, r, e: METHOD[m] * BUDGET[e], "method × budget"),
        (lambda s, m, r, e: RECIPE[r] * BUDGET[e], "mixing × budget"),
        (lambda s, m, r, e: METHOD[m] * RECIPE[r] * BUDGET[e], "method × mixing × budget"),
    ],
)
def test_an_interaction_is_no_main_effect(top1, effect):
    assert shares(runs(top1))[effect] == pytest.approx(100)


def test_a_shift_of_a_whole_seed_explains_nothing():
    plain = runs(lambda s, m, r, e: METHOD[m] + RECIPE[r] * BUDGET[e])
    shifted = runs(lambda s, m, r, e: 10 * s + METHOD[m] + RECIPE[r] * BUDGET[e])
    assert shares(plain) == pytest.approx(shares(shifted))


def test_an_incomplete_design_is_refused():
    frame = runs(lambda s, m, r, e: METHOD[m])
    with pytest.raises(ValueError, match="complete design 18"):
        recipes.variance_shares(frame.drop(index=3), 0.95, "mixing")
    with pytest.raises(ValueError, match="nothing to explain"):
        recipes.variance_shares(frame.assign(top1=1.0), 0.95, "mixing")


# ---- public runs -----------------------------------------------------------------------------


def test_the_public_lead_of_spectralkd_fades():
    """The logs, read by hand: 6.1 points at epoch 10, nothing at 300."""
    leads = recipes.public_leads(ROOT / "results/reported/public_training_curves.csv")
    lead = leads[leads["method"] == "spectralkd_first1_last1"].set_index("epoch")["lead"]
    expected = {10: 6.1, 20: 4.2, 30: 3.3, 50: 1.4, 100: 0.2, 300: 0.0}
    assert {epoch: round(lead[epoch], 1) + 0.0 for epoch in expected} == expected
    assert len(lead) == 300


# ---- configuration ---------------------------------------------------------------------------


def test_table_1_is_trained_in_cohorts_of_its_own():
    made = resolve(
        {
            "scale": "smoke",
            "table1": {"epochs": 2},
            "recipe_study": {"methods": ["soft_kd", "manifold", "dkd", "nkd"]},
            "ablation": None,
            "transfer": None,
            "detection": None,
            "segmentation": None,
            "bench": None,
            "cohort": {"size": 4},
        }
    )
    trainings = made.trainings()
    *own, more = trainings["deit-cait", "A", 2]
    assert own == made.in_cohorts(made.methods_of("deit-cait"))
    assert more == ["dkd", "nkd"]
    assert trainings["deit-cait", "B", 1] == [["soft_kd", "manifold", "dkd", "nkd"]]
    assert set(trainings) == {("deit-cait", recipe, epochs) for recipe in "AB" for epochs in (1, 2)}


def factor(recipe, name="size"):
    return {"factors": {name: {"recipe": recipe, "epochs_factor": 1}}}


def test_a_recipe_that_changes_nothing_is_no_factor():
    same = {"recipes": {"same": "config/recipes/smoke.yaml"}}
    with pytest.raises(UserError, match="'same' holds the same values as 'A', so it changes"):
        resolve({"scale": "smoke", **same, "recipe_study": factor("same")})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pair": "deit-cat"}, "recipe_study.pair: unknown 'deit-cat'"),
        ({"reference": "C"}, "recipe_study.reference: unknown 'C'"),
        (factor("C"), "recipe_study.factors.size.recipe: unknown 'C'"),
        (factor("A"), "recipe_study.factors.size.recipe: 'A' is recipe_study.reference too"),
        (factor("B"), f"'B' is recipe_study.factors.{JOINT}.recipe too"),
        (factor("A", JOINT), "'A' is recipe_study.reference too"),
        ({"factors": {JOINT: None}}, "recipe_study.factors must name at least one factor"),
        ({"methods": ["soft_kd", "manifolt"]}, "Did you mean 'manifold'"),
        ({"baseline": "none"}, "recipe_study.baseline: unknown 'none'"),
        ({"epochs": [2]}, "at least two different values"),
        ({"contrasts": [["none", "none"]]}, "recipe_study.contrasts: none minus itself"),
        ({"epochs": [0, 2]}, "recipe_study.epochs[0] must be at least 1"),
    ],
)
def test_a_study_that_cannot_run_is_refused(change, words):
    with pytest.raises(UserError, match=re.escape(words)):
        resolve({"scale": "smoke", "recipe_study": change})
