"""Method, recipe and budget: cohorts, gains, variance shares, and the public runs next to them."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence.statistics import holm
from benchmarks.recipes import measure as recipes
from benchmarks.recipes import text
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import ROOT, fingerprint, resolve
from manifold.training.records import evaluation_path

SEEDS = [0, 1, 2]
STUDY = {"recipes": ["A", "B"], "epochs": [1, 2], "methods": ["soft_kd", "fitnet", "manifold"]}


def top1_of(method, recipe, epochs, seed):
    """Soft KD at 70 plus seed; the gain of `manifold` is 4, 1 after two epochs; FitNet has none."""
    gain = {"soft_kd": 0.0, "manifold": 4.0 if epochs == 1 else 1.0, "fitnet": 0.5 * (seed - 1)}
    return 70.0 + seed + 2 * (recipe == "B") + 0.1 * seed * (method == "manifold") + gain[method]


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
            "recipe_study": STUDY,
            "budgets": STUDY | {"recipes": ["A"]},
        }
    )
    digest = sha256(teacher)
    path = evaluation_path(made, "deit-cait")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"top1": 88.0, "sha256": digest}), encoding="utf-8")
    for recipe, epochs, method, seed in itertools.product(*STUDY.values(), SEEDS):
        key = ("deit-cait", recipe, epochs, method, seed)
        identity = {**made.cell_identity(*key), "teacher_sha256": digest}
        record = {
            "fingerprint": fingerprint(identity),
            "result": {
                "top1": top1_of(method, recipe, epochs, seed),
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
    return made


def test_gains_are_over_the_baseline_of_the_same_recipe_and_budget(finished):
    rows = recipes.measure(finished.studies["recipes"]).rows.set_index(
        ["recipe", "epochs", "method"]
    )
    assert len(rows) == 12 and (rows["n"] == 3).all()
    for recipe in "AB":
        assert rows.loc[(recipe, 1, "manifold"), "gain_mean"] == pytest.approx(4.1)
        assert rows.loc[(recipe, 2, "manifold"), "gain_mean"] == pytest.approx(1.1)
        assert pd.isna(rows.loc[(recipe, 1, "soft_kd"), "gain_mean"])
    assert rows.loc[("B", 2, "soft_kd"), "top1_mean"] == pytest.approx(73.0)


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
    words = "\n".join(text._in_words(study, finished.studies["recipes"]))
    assert "Recipe A, 1 epoch. ahead of Soft KD: Manifold, decoupled. undecided: FitNet" in words
    assert "all 2 comparisons, at p < 0.05: Manifold, decoupled\n" in words
    assert (
        "Recipe B: 2 epochs against 1. smaller gain: Manifold, decoupled. undecided: FitNet"
    ) in words


def test_the_files_of_the_study(finished):
    finished.studies["recipes"].write()
    folder = finished.directory
    for name in ("md", "csv", "tex", "png", "pdf"):
        assert (folder / f"recipes.{name}").stat().st_size
    assert len(pd.read_csv(folder / "recipes_seeds.csv")) == 36
    assert len(pd.read_csv(folder / "recipes_variance.csv")) == 7
    assert len(pd.read_csv(folder / "recipes_changes.csv")) == 8
    text = (folder / "recipes.md").read_text(encoding="utf-8")
    assert "each with its own full schedule" in text and "n = 3 paired seeds" in text


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


def test_a_missing_cell_of_the_study_is_named(finished):
    path = finished.cell_directory("deit-cait", "B", 2, "fitnet", 1) / "run.json"
    path.unlink()
    with pytest.raises(UserError, match="B/2-epochs/fitnet/seed-1"):
        recipes.measure(finished.studies["recipes"])


# ---- variance --------------------------------------------------------------------------------


def runs(top1, seeds=(0, 1)):
    factors = itertools.product(seeds, ["a", "b", "c"], ["A", "B"], [1, 2, 4])
    frame = pd.DataFrame(factors, columns=["seed", "method", "recipe", "epochs"])
    return frame.assign(top1=[top1(*row) for row in frame.itertuples(index=False)])


def shares(frame):
    table = recipes.variance_shares(frame, 0.95).set_index("effect")
    return table["share_mean"].to_dict()


METHOD = {"a": -1, "b": 0, "c": 1}  # variance 2/3
RECIPE = {"A": -1, "B": 1}  # variance 1
BUDGET = {1: -2, 2: 0, 4: 2}  # variance 8/3


def test_additive_effects_are_told_apart():
    found = shares(runs(lambda s, m, r, e: 80 + s + METHOD[m] + RECIPE[r] + BUDGET[e]))
    total = 2 / 3 + 1 + 8 / 3
    assert found["method"] == pytest.approx(100 * (2 / 3) / total)
    assert found["recipe"] == pytest.approx(100 / total)
    assert found["budget"] == pytest.approx(100 * (8 / 3) / total)
    assert sum(found.values()) == pytest.approx(100)
    assert found["method × budget"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("top1", "effect"),
    [
        (lambda s, m, r, e: METHOD[m] * RECIPE[r], "method × recipe"),
        (lambda s, m, r, e: METHOD[m] * BUDGET[e], "method × budget"),
        (lambda s, m, r, e: RECIPE[r] * BUDGET[e], "recipe × budget"),
        (lambda s, m, r, e: METHOD[m] * RECIPE[r] * BUDGET[e], "method × recipe × budget"),
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
        recipes.variance_shares(frame.drop(index=3), 0.95)
    with pytest.raises(ValueError, match="nothing to explain"):
        recipes.variance_shares(frame.assign(top1=1.0), 0.95)


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pair": "deit-cat"}, "recipe_study.pair: unknown 'deit-cat'"),
        ({"recipes": ["A", "C"]}, "recipe_study.recipes: unknown 'C'"),
        ({"methods": ["soft_kd", "manifolt"]}, "Did you mean 'manifold'"),
        ({"baseline": "none"}, "recipe_study.baseline: unknown 'none'"),
        ({"epochs": [2]}, "at least two different values"),
        ({"epochs": [0, 2]}, "recipe_study.epochs[0] must be at least 1"),
    ],
)
def test_a_study_that_cannot_run_is_refused(change, words):
    with pytest.raises(UserError, match=re.escape(words)):
        resolve({"scale": "smoke", "recipe_study": change})
