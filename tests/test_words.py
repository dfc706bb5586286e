"""What the tables share: columns and text of intervals, verdicts, and figures to compare."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from benchmarks.evidence import words
from benchmarks.evidence.document import write_figure
from benchmarks.evidence.statistics import Interval

ROWS = pd.DataFrame(
    [
        {"title": title, **words.interval_columns("gain", interval)}
        for title, interval in {
            "Baseline": None,
            "Ahead, far": Interval(2.0, 0.5, 3.5, 3),
            "Touches": Interval(1.0, 0.0, 2.0, 3),
            "Holds": Interval(-0.25, -1.0, 0.5, 3),
            "Behind": Interval(-2.0, -3.0, -1.0, 3),
            "Ahead": Interval(0.2, 0.1, 0.3, 3),
        }.items()
    ]
)


def test_a_p_value_has_no_more_digits_than_it_says_something_with():
    shown = [words.readable_p(p) for p in (None, float("nan"), 1.0, 0.0123, 1e-4, 9.9e-5, 0.0)]
    assert shown == ["—", "—", "1", "0.012", "0.0001", "< 0.0001", "< 0.0001"]


def test_verdicts_name_every_row_with_an_interval_once():
    found = words.verdicts(ROWS, "gain", "above", "below", "open")
    assert found == {
        "above": ["Ahead, far", "Ahead"],
        "below": ["Behind"],
        "open": ["Touches", "Holds"],
    }
    sentence = words.sentence(found)
    assert sentence == "above: Ahead, far; Ahead. below: Behind. open: Touches; Holds"


@pytest.mark.parametrize(
    ("epochs", "said"),
    [(1, "1 epoch"), (11, "11 epochs"), ("1", "1 epoch"), ("1, 2", "1, 2 epochs")],
)
def test_one_epoch_is_no_plural(epochs, said):
    assert words.in_epochs(epochs) == said


def test_a_verdict_that_no_row_has_is_not_said():
    assert words.verdicts(ROWS.iloc[:1], "gain", "above", "below", "open") == {}
    assert words.verdicts(ROWS.iloc[4:5], "gain", "above", "below", "open") == {"below": ["Behind"]}


@pytest.mark.parametrize(
    ("place", "sign", "text"),
    [
        (0, "+", "—"),
        (1, "+", "+2.00 [+0.50, +3.50]"),
        (3, "", "-0.25 [-1.00, 0.50]"),
    ],
)
def test_intervals_as_text(place, sign, text):
    assert words.readable_interval(ROWS.iloc[place], "gain", sign) == text


def test_an_end_that_is_cut_is_marked():
    interval = Interval(98.0, 95.5, 100.0, 3, cut=("high",))
    row = pd.Series(words.interval_columns("top1", interval))
    assert words.readable_interval(row, "top1") == "98.00 [95.50, 100.00 (cut)]"
    assert words.readable_interval(row, "top1", digits=1) == "98.0 [95.5, 100.0 (cut)]"
    assert words.words_on_cuts([ROWS]) == ""
    assert words.words_on_cuts([ROWS, pd.DataFrame([row])]).startswith("(cut): the t interval")


def test_a_mean_without_an_interval_stands_alone():
    row = pd.Series({"top1_mean": 88.987, "top1_low": None, "top1_high": None})
    assert words.readable_interval(row, "top1") == "88.99"


def test_after_correction_counts_the_family_and_names_what_is_left():
    rows = pd.DataFrame({"title": ["a", "b"], "p_holm": [0.02, 0.06]})
    said = words.after_correction(rows, "soft KD", 0.95, "title")
    assert "all 2 comparisons" in said and said.endswith("p < 0.05: a")
    assert words.after_correction(rows, "soft KD", 0.99, "title").endswith("p < 0.01: none")


@pytest.mark.slow
def test_the_same_figure_gives_the_same_bytes(tmp_path, monkeypatch):
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    written = []
    for moment in ("1000000000", "1100000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", moment)  # what matplotlib takes for the date
        write_figure(figure, tmp_path, "figure")
        written.append(
            [(tmp_path / f"figure.{suffix}").read_bytes() for suffix in ("png", "pdf", "svg")]
        )
    plt.close(figure)
    assert written[0] == written[1]


def test_rows_of_no_family_are_said_and_not_corrected():
    rows = pd.DataFrame({"title": ["A", "control"], "p_holm": [0.01, float("nan")]})
    said = {"ahead of soft KD": ["A", "control"]}
    words_of = words.before_and_after(said, rows, "soft KD", 0.95)
    assert words_of.startswith("ahead of soft KD: A; control. Told from soft KD after Holm's")
    assert words_of.endswith("over the one comparison, at p < 0.05: A")
    assert words.before_and_after(said, rows[1:], "soft KD", 0.95) == "ahead of soft KD: A; control"
