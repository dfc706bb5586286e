"""All methods together: the randomised-block model, Dunnett's comparison, what breaks it."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence import blocks as module
from benchmarks.evidence.blocks import blocks, dunnett_probability, residuals
from benchmarks.evidence.statistics import paired_difference

LEVEL = 0.01
# Two-sided 5 % points of Dunnett 1964 (Biometrics 20): comparisons, degrees of freedom, point.
PUBLISHED = [(1, 10, 2.23), (2, 10, 2.57), (3, 10, 2.76), (5, 10, 2.99), (2, 20, 2.38)]
PUBLISHED += [(5, 20, 2.73), (9, 20, 2.95), (1, 5, 2.57)]


def drawn(spreads, seeds=5, gains=None, seed=0):
    """Values of methods a, b, … with a common effect of each seed."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(0, 2, seeds)
    names = "abcdefghijklmnop"[: len(spreads)]
    gains = gains or [0.0] * len(spreads)
    return {
        name: dict(enumerate(80 + gain + effects + rng.normal(0, spread, seeds)))
        for name, spread, gain in zip(names, spreads, gains, strict=True)
    }


@pytest.mark.parametrize(("comparisons", "degrees", "point"), PUBLISHED)
def test_dunnetts_points_are_the_published_ones(comparisons, degrees, point):
    low, high = (
        1 - dunnett_probability(point + half, comparisons, degrees) for half in (0.005, -0.005)
    )
    assert low <= 0.05 + 1e-4 and high >= 0.05 - 1e-4


@pytest.mark.parametrize("degrees", [1, 2, 4, 44, 1000])
@pytest.mark.parametrize("distance", [0.1, 1.0, 3.0])
def test_one_comparison_is_students(distance, degrees):
    expected = 2 * stats.t.cdf(distance, degrees) - 1
    assert dunnett_probability(distance, 1, degrees) == pytest.approx(expected, abs=2e-3)
    if degrees > 2:
        assert dunnett_probability(distance, 1, degrees) == pytest.approx(expected, abs=1e-6)


def test_several_comparisons_are_a_multivariate_t():
    shape = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    law = stats.multivariate_t(np.zeros(4), shape, df=12, seed=0)
    inside = law.cdf(np.full(4, 2.2), lower_limit=np.full(4, -2.2), maxpts=200_000)
    assert dunnett_probability(2.2, 4, 12) == pytest.approx(inside, abs=1e-3)


def test_gains_and_residual_are_those_of_least_squares():
    values = drawn([0.3] * 4, gains=[0.0, 0.5, 1.0, -0.2])
    found = blocks(values, "a", 0.95, LEVEL)
    rows, y = [], []
    for method, own in values.items():
        for seed, value in own.items():
            columns = [
                1.0,
                *(method == other for other in "bcd"),
                *(seed == s for s in range(1, 5)),
            ]
            rows.append(np.array(columns, dtype=float))
            y.append(value)
    design = np.array(rows)
    solution, squares, *_ = np.linalg.lstsq(design, np.array(y), rcond=None)
    assert found.degrees == len(y) - design.shape[1] == 12
    assert found.residual == pytest.approx(np.sqrt(squares[0] / found.degrees))
    error = found.residual * np.sqrt(np.linalg.inv(design.T @ design)[1, 1])
    half = stats.t.ppf(0.975, found.degrees) * error
    assert found.gains["b"].mean == pytest.approx(solution[1])
    assert (found.gains["b"].low, found.gains["b"].high) == pytest.approx(
        (solution[1] - half, solution[1] + half)
    )
    assert residuals(np.array([[*own.values()] for own in values.values()])).sum() == pytest.approx(
        0
    )


def test_two_methods_are_a_paired_difference():
    values = drawn([0.3, 0.3], gains=[0.0, 0.4])
    (found,), pair = blocks(values, "a", 0.95, LEVEL).gains.values(), (values["b"], values["a"])
    expected = paired_difference(*pair, 0.95)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert found.p == pytest.approx(expected.p, abs=1e-4)


def test_more_methods_tell_more_apart_than_pairs_do():
    values = drawn([0.3] * 10, seeds=3, gains=[0.0, *[1.2] * 9])
    together = blocks(values, "a", 0.95, LEVEL)
    pairs = [paired_difference(values[name], values["a"], 0.95) for name in together.gains]
    assert together.degrees == 18
    assert np.mean([gain.high - gain.low for gain in together.gains.values()]) < np.mean(
        [pair.high - pair.low for pair in pairs]
    )


def test_a_method_of_another_spread_is_left_out_and_widens_no_interval():
    values = drawn([0.3] * 8, seeds=4)
    wild = {**values, "wild": {0: 30.0, 1: 85.0, 2: 20.0, 3: 80.0}}
    found = blocks(wild, "a", 0.95, LEVEL)
    assert found.left_out == ("wild",) and "wild" not in found.gains
    assert found.residual == pytest.approx(blocks(values, "a", 0.95, LEVEL).residual)
    assert blocks(values, "a", 0.95, LEVEL).left_out == ()


@pytest.mark.parametrize(("count", "seeds"), [(3, 5), (4, 5), (5, 3)])
def test_a_method_of_another_spread_is_found_among_few(count, seeds):
    """The others' mean holds none of it, so its own spread does not hide it."""
    found = [
        blocks(drawn([0.3] * (count - 1) + [100.0], seeds, seed=s), "a", 0.95, LEVEL).left_out
        for s in range(20)
    ]
    assert found.count(("abcde"[count - 1],)) >= 19


def test_the_spread_of_one_method_is_held_to_an_exact_f(monkeypatch):
    """Under equal spread its p is uniform: of the first method that is looked at, here."""
    seen = []
    monkeypatch.setattr(module, "_p_of_ratio", lambda *given: seen.append(given) or 1.0)
    for seed in range(2000):
        module._of_another_spread(drawn([0.3] * 3, seeds=4, seed=seed), "a", LEVEL)
    ratios, above, below = map(np.array, zip(*seen[::2], strict=True))
    assert set(above) == {3} and set(below) == {3}
    assert stats.kstest(ratios, stats.f(3, 3).cdf).pvalue > 0.01


@pytest.mark.slow
def test_equal_spreads_are_seldom_called_others():
    found = (blocks(drawn([0.3] * 8, seed=s), "a", 0.95, LEVEL) for s in range(150))
    odd = sum(bool(each.left_out) for each in found)
    assert odd <= 8  # 1 % is asked for all methods together; the residuals are not independent


@pytest.mark.slow
def test_a_true_null_is_told_from_zero_as_seldom_as_said():
    told = 0
    for seed in range(200):
        gains = blocks(drawn([0.3] * 6, seeds=3, seed=seed), "a", 0.95, LEVEL).gains
        told += any(gain.p < 0.05 for gain in gains.values())
    assert told / 200 == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize("n", [2, 3])
def test_no_spread_at_all_is_no_division(n):
    same = dict.fromkeys(range(n), 80.0)
    found = blocks({"a": same, "b": same, "c": dict.fromkeys(range(n), 81.0)}, "a", 0.95, LEVEL)
    assert found.residual == 0 and found.gains["b"].p == 1.0 and found.gains["c"].p == 0.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": {0: 1.0, 1: 2.0}}, "another method"),
        ({"b": {0: 1.0, 1: 2.0}, "c": {0: 1.0, 1: 2.0}}, "the baseline 'a'"),
        ({"a": {0: 1.0}, "b": {0: 1.0}}, "two seeds"),
        ({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0}}, "unpaired seeds"),
    ],
)
def test_what_is_no_block_design_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        blocks(values, "a", 0.95, LEVEL)
