"""Training curves from made-up records: means over seeds, what an epoch did not measure, words."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from benchmarks.curves.figure import draw, looks_of
from benchmarks.curves.table import GRADIENT, LOSS, in_words, read, summarise
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import fingerprint, resolve

SEEDS = [0, 1, 2]
HEADS = {
    "soft_kd": "epoch,step,learning_rate,kl,loss,gradient_share_kl,validation_top1",
    "manifold": "epoch,step,learning_rate,kl,intra,loss,gradient_share_kl,gradient_share_intra,"
    "validation_top1",
}
ROWS = {  # of a seed, a line an epoch
    "soft_kd": lambda seed: [[1, 9, 0.1, 2 + seed, 2, 1, 50], [2, 18, 0.1, 1 + seed, 1, 1, ""]],
    "manifold": lambda seed: [
        [1, 9, 0.1, 2, 0.5 + 0.1 * seed, 2.5, 0.75, 0.25, 60 + seed],
        [2, 18, 0.1, 2, 0.2 + 0.1 * seed, 1.2, 0.9, 0.1, 70],
    ],
}


@pytest.fixture
def study(tmp_path):
    """The smoke scale's training curves, with records of two methods on disk."""
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(b"weights")
    overrides = {
        "pairs": {"deit-cait": {"teacher": {"weights": str(weights)}}},
        "curves": {"methods": list(HEADS)},
    }
    made = resolve({"scale": "smoke", "results": str(tmp_path), "seeds": SEEDS, **overrides})
    for method, head in HEADS.items():
        for seed in SEEDS:
            key = ("deit-cait", "A", made.curves.epochs, method, seed)
            identity = {**made.cell_identity(*key), "teacher_sha256": sha256(weights)}
            folder = made.cell_directory(*key)
            folder.mkdir(parents=True)
            record = {"fingerprint": fingerprint(identity)}
            (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
            lines = [head, *(",".join(map(str, line)) for line in ROWS[method](seed))]
            (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made.studies["curves"]


def test_a_curve_is_the_mean_over_seeds_with_its_interval(study):
    rows = summarise(read(study)[0], 0.95).set_index(["method", "quantity", "term", "epoch"])
    row = rows.loc[("manifold", LOSS, "intra", 2)]
    values = [0.2, 0.3, 0.4]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert (row["n"], row["step"]) == (3, 18)
    assert row["value_mean"] == pytest.approx(0.3)
    assert (row["value_low"], row["value_high"]) == pytest.approx((0.3 - half, 0.3 + half))
    assert rows.loc[("manifold", GRADIENT, "intra", 1), "value_mean"] == pytest.approx(0.25)


def test_what_an_epoch_did_not_measure_is_left_out(study):
    found, _ = read(study)
    accuracies = found[(found["quantity"] == "validation top-1") & (found["method"] == "soft_kd")]
    assert set(accuracies["epoch"]) == {1} and "loss" not in set(found["term"])


def test_words_say_what_falls_and_what_cannot_be_told(study):
    losses, shares = in_words(read(study)[0], study)
    assert losses == (
        "losses that fall: kl of Soft KD; intra of Manifold, decoupled. losses not told from "
        "constant: kl of Manifold, decoupled"
    )
    assert "share of the gradient grows: kl of Manifold, decoupled." in shares
    assert "share of the gradient shrinks: intra of Manifold, decoupled." in shares


def test_the_document_is_made_of_records_and_the_figure_has_a_line_a_method(study):
    document = study.build()
    assert "2 epochs of 9 steps" in document.caption and "n = 3 seeds" in document.caption
    figure = draw(document.csv[""], "soft_kd", document.caption)
    lines = np.reshape(figure.axes, (2, 3))
    assert lines[0, 1].get_yscale() == "log"
    assert len(lines[1, 0].lines) == 2  # its own accuracy, and the baseline's
    assert [text.get_text() for text in lines[1, 2].get_legend().get_texts()] == ["kl", "intra"]
    plt.close(figure)


def test_the_caption_says_how_often_each_run_looked_whatever_is_configured_now(study):
    assert "looked at every 10 steps." in study.build().caption  # of runs that do not say
    path = study.experiment.cell_directory(*study.needed()[0]) / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["environment"] = {"cohort": {"gradient_steps": 3}}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert "looked at every 3 or 10 steps." in study.build().caption


def test_terms_of_a_method_are_told_apart_and_a_bases_are_alike():
    (first, second) = (looks_of(terms) for terms in (["kl", "intra", "inter"], ["kl", "spectrum"]))
    assert first["kl"] == second["kl"]
    assert len({look["color"] for look in first.values()}) == len(first)


def test_settings_that_no_run_can_use_are_refused(experiment):
    for section, words in (
        ({"methods": ["none"], "baseline": "soft_kd"}, "curves.baseline: unknown 'soft_kd'"),
        ({"recipe": "Z"}, "curves.recipe: unknown 'Z'"),
        ({"pair": "none"}, "curves.pair: unknown 'none'"),
    ):
        with pytest.raises(UserError) as error:
            experiment(curves=section)
        assert words in str(error.value)
