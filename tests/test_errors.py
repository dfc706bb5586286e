"""How an error of ours ends a process, and is found again in what a job has said."""

import pytest

from manifold.errors import UserError, ending_the_process, last_error


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("training\nerror: a: no such file; give one\n", "error: a: no such file; give one"),
        ("error: first\nerror: last:\n  line 2\n", "error: last:\n  line 2"),
        ("error: of a rank\nE1127 13:00 torch failed\n====\n", "error: of a rank"),
        ("error: before\nTraceback (most recent call last):\n", "error: before"),
        ("Traceback (most recent call last):\nValueError: an error: x\n", None),
        ("", None),
    ],
)
def test_the_error_that_a_log_ends_with(log, error):
    assert last_error(log) == error


def test_a_users_error_ends_the_process_with_its_words_alone():
    @ending_the_process()
    def work(number):
        if number:
            raise UserError(f"n: {number} is wrong; give 0")
        return number

    assert work(0) == 0
    with pytest.raises(SystemExit, match=r"^error: n: 1 is wrong; give 0$") as caught:
        work(1)
    assert caught.value.__suppress_context__
