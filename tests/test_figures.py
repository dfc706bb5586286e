"""The figures: what lies far off is told and does not squeeze the rest."""

import pandas as pd
import pytest
from matplotlib.text import Text

from benchmarks.ablation.figure import draw as draw_ablation
from benchmarks.table1.figure import draw as draw_table1

METHODS = {"soft_kd": 80.0, "fitnet": 82.0, "manifold": 83.0, "none": 79.0, "sp": 81.5}
SEEDS = (-0.5, 0.0, 0.5)


def texts(axes):
    return [text.get_text() for text in axes.findobj(Text)]


def measured(top1):
    """Rows and seeds as of table1.csv, every interval one point to either side."""
    runs = [
        {"pair": "p", "method": method, "seed": seed, "top1": value + offset}
        for method, value in top1.items()
        for seed, offset in enumerate(SEEDS)
    ]
    rows = [
        {
            **{"pair": "p", "method": method, "title": method.upper(), "top1_mean": value},
            **{"top1_low": value - 1, "top1_high": value + 1, "gain_mean": value - 80},
            **{"gain_low": value - 81, "gain_high": value - 79},
        }
        for method, value in top1.items()
    ]
    gains = ("gain_mean", "gain_low", "gain_high")
    rows[list(top1).index("soft_kd")].update(dict.fromkeys(gains))
    rows.append({"pair": "p", "method": "teacher", "title": "Teacher", "top1_mean": 90.0})
    return pd.DataFrame(rows), pd.DataFrame(runs)


@pytest.mark.parametrize(
    ("value", "top1", "gain"),
    [(30.0, "30.0 [29.0, 31.0]", "-50.0 [-51.0, -49.0]"), (140.0, "140.0 [139.0, 141.0]", None)],
)
def test_a_row_that_lies_far_off_is_told_and_left_out_of_the_axis(value, top1, gain):
    rows, seeds = measured({**METHODS, "masked": value})
    left, right = draw_table1(rows, seeds, "soft_kd", "caption").axes
    assert top1 in texts(left)
    assert gain is None or gain in texts(right)
    for axes, low, high in ((left, 78, 90), (right, -2, 4)):  # intervals, teacher and zero
        start, end = axes.get_xlim()
        assert low - 2 < start < low and high < end < high + 2


@pytest.mark.parametrize(("ends", "markers"), [("low high", {"<", ">"}), ("", set())])
def test_an_interval_that_is_cut_ends_in_an_arrow(ends, markers):
    rows, seeds = measured(METHODS)
    rows["top1_cut"] = ["", ends, "", "", "", None]
    left, right = draw_table1(rows, seeds, "soft_kd", "caption").axes
    assert {line.get_marker() for line in left.lines} & {"<", ">"} == markers
    assert not {line.get_marker() for line in right.lines} & {"<", ">"}


def test_rows_that_lie_together_are_all_on_the_axis():
    rows, seeds = measured(METHODS)
    for axes in draw_table1(rows, seeds, "soft_kd", "caption").axes:
        assert not [text for text in texts(axes) if "[" in text]


def test_the_ablations_outlier_is_told_at_its_own_height():
    top1 = {"m0": 83.0, "m1": 82.0, "m2": 83.5, "m3": 82.5, "m4": 10.0}
    rows = pd.DataFrame(
        [
            {
                **{"group": "Reference" if name == "m0" else "Others", "variant": name.upper()},
                **{"pair": "p", "recipe": "A", "method": name, "gain_mean": 1.0},
                **{"gain_low": 0.5, "gain_high": 1.5},
                **{"change_mean": None if name == "m0" else value - 83},
                **{"change_low": value - 84, "change_high": value - 82},
            }
            for name, value in top1.items()
        ]
    )
    runs = pd.DataFrame(
        [
            {"pair": "p", "recipe": "A", "method": name, "change": value - 83, "gain": 1.0}
            for name, value in top1.items()
        ]
    )
    left, right = draw_ablation(rows, runs, "Soft KD", "caption").axes
    (told,) = [text for text in left.texts if text.get_text() == "-73.0 [-74.0, -72.0]"]
    labels = [label.get_text() for label in left.get_yticklabels()]
    heights = dict(zip(labels, left.get_yticks(), strict=True))
    assert abs(told.xy[1] - heights["M4"]) < 0.5
    assert left.get_xlim()[0] > -4
    assert not [text for text in texts(right) if "[" in text]
