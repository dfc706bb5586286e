"""An experiment that is made from another whole one, as the rehearsals are."""

import pytest

from manifold.errors import UserError
from manifold.settings import derived, read_experiment, write_experiment


def test_what_is_overridden_differs_and_all_else_stays(experiment):
    whole = experiment(name="whole", seeds=[3, 4])
    small = derived(whole, {"recipes": {"A": {"batch_size": 8}}, "machine": {"processes": 2}})
    assert (small.recipes["A"].batch_size, small.machine.processes) == (8, 2)
    batch = whole.recipes["A"].batch_size
    assert small.recipes["A"].replaced(batch_size=batch) == whole.recipes["A"]
    assert small.seeds == [3, 4] and small.name == "whole" and small.scale == "smoke"
    assert list(small.studies) == list(whole.studies)
    back = {"recipes": {"A": {"batch_size": batch}}, "machine": {"processes": 1}}
    assert derived(small, back) == whole


def test_it_is_the_same_from_its_file(experiment):
    small = derived(experiment(), {"name": "small", "cohort": {"size": 1}})
    assert read_experiment(write_experiment(small)) == small


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"machine": {"process": 2}}, ["machine", "'process'", "'processes'"]),
        ({"recipes": {"A": {"batch_size": 0}}}, ["recipes.A.batch_size", "0"]),
        ({"pairs": {"deit-cait": {"teacher": {"weights": "gone.pth"}}}}, ["gone.pth"]),
    ],
)
def test_it_is_checked_as_a_scale_is(experiment, overrides, words):
    with pytest.raises(UserError) as error:
        derived(experiment(), overrides)
    for word in words:
        assert word in str(error.value)
