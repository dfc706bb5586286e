"""The ablation from made-up cells: paired changes, gains over a variant's own baseline, words."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.ablation import table as ablation
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import fingerprint, resolve

SEEDS = [0, 1, 2]
KEYS = ["pair", "recipe", "method"]
# Top-1 of seeds 0, 1 and 2 by pair, recipe and method.
TOP1 = {
    ("deit-cait", "A", "soft_kd"): [70.0, 72.0, 71.0],
    ("deit-cait", "A", "manifold"): [74.0, 75.0, 75.5],
    ("deit-cait", "A", "manifold_intra"): [73.0, 74.1, 74.4],
    ("deit-cait", "A", "manifold_without_intra"): [76.0, 72.0, 75.0],
    ("deit-cait", "A-drop-path", "soft_kd"): [60.0, 61.0, 62.0],
    ("deit-cait", "A-drop-path", "manifold"): [66.0, 67.1, 68.0],
    ("untrained-teacher", "A", "soft_kd"): [10.0, 10.0, 10.0],
    ("untrained-teacher", "A", "manifold"): [10.0, 10.0, 10.0],
}


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """The smoke scale's ablation, with its cells on disk."""
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(b"weights")
    pairs = {"deit-cait": {"teacher": {"weights": str(weights)}}}
    overrides = {"scale": "smoke", "results": str(tmp_path), "name": "ablation", "pairs": pairs}
    made = resolve({**overrides, "seeds": SEEDS})
    untrained = made.teacher_weights("untrained-teacher")
    untrained.parent.mkdir(parents=True)
    untrained.write_bytes(b"noise")
    for (pair, recipe, method), values in TOP1.items():
        for seed, top1 in zip(SEEDS, values, strict=True):
            key = (pair, recipe, made.ablation.epochs, method, seed)
            digest = sha256(made.teacher_weights(pair))
            identity = {**made.cell_identity(*key), "teacher_sha256": digest}
            record = {
                "fingerprint": fingerprint(identity),
                "result": {"top1": top1, "split": "test", "images": 360},
                "images_seen": 1216,
                "teacher_sha256": digest,
                "environment": {"git_commit": "c0ffee"},
            }
            path = made.cell_directory(*key) / "run.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(ablation, "read_teacher", lambda _, pair: {"top1": float(len(pair))})
    return made


def interval(first, second):
    differences = np.subtract(first, second)
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
    return differences.mean(), differences.mean() - half, differences.mean() + half


def test_changes_are_to_the_reference_and_gains_to_the_variants_own_baseline(finished):
    table = ablation.measure(finished.studies["ablation"])
    rows = table.rows.set_index(KEYS)
    reference = ("deit-cait", "A", "manifold")
    assert list(rows.index) == [key for key in TOP1 if key[2] != "soft_kd"]  # reference first
    for key, row in rows.iterrows():
        gain = interval(TOP1[key], TOP1[(*key[:2], "soft_kd")])
        assert [row[f"gain_{part}"] for part in ("mean", "low", "high")] == pytest.approx(gain)
        assert row["teacher_top1"] == len(key[0])
        if key != reference:
            change = interval(TOP1[key], TOP1[reference])
            found = [row[f"change_{part}"] for part in ("mean", "low", "high")]
            assert found == pytest.approx(change)
    assert rows.loc[[reference], "change_mean"].isna().all()
    assert len(table.seeds) == len(rows) * len(SEEDS)
    plain = stats.ttest_rel(TOP1["untrained-teacher", "A", "manifold"], TOP1[reference]).pvalue
    held = rows.loc[("untrained-teacher", "A", "manifold"), "p_holm"]
    assert held == pytest.approx(4 * plain)  # the smallest of four


def test_the_references_own_row_is_no_group(experiment):
    with pytest.raises(UserError, match="'Reference' stands for the reference's own row"):
        experiment(ablation={"groups": {"Reference": ["manifold_full"]}})


def test_words_follow_the_intervals(finished):
    words = ablation.in_words(ablation.measure(finished.studies["ablation"]).rows, "Soft KD", 0.95)
    assert words[0] == "Reference. ahead of Soft KD: Manifold, decoupled"
    terms = [line for line in words if line.startswith("Loss terms.")]
    assert "worse than the reference: Manifold, intra-image term" in terms[0]
    assert "not told from it: Manifold without the intra-image term" in terms[0]
    assert "Teacher. worse than the reference: Pair untrained-teacher" in words[-3]
    assert "not told from Soft KD: Pair untrained-teacher" in words[-3]
    last = "told from the reference after Holm's correction over all 4 comparisons, at p < 0.05: "
    assert words[-2].startswith(last)
    assert "Pair untrained-teacher" in words[-2] and "without the intra" not in words[-2]
    assert words[-1] == "Gains over Soft KD are of single intervals, and corrected for nothing."


def test_a_teacher_without_a_classifier_has_no_accuracy():
    given = {"teacher_sha256": "0123456789", "teacher_top1": None}
    assert ablation._teacher(pd.Series(given)) == "01234567"
    assert ablation._teacher(pd.Series(given | {"teacher_top1": 88.5})) == "01234567 (88.50 %)"


@pytest.mark.slow
def test_every_format_is_written(finished):
    finished.studies["ablation"].write()
    sizes = {path.suffix: path.stat().st_size for path in finished.directory.glob("ablation.*")}
    assert set(sizes) == {".md", ".csv", ".tex", ".png", ".pdf", ".svg"}
    assert all(sizes.values())
