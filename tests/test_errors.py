"""How an error of ours ends a process, and is found again in what a job has said."""

import os
import signal
import subprocess
import sys

import pytest

from manifold.errors import SHOWN_FAULTS, Faults, UserError, ending_the_process, last_error
from manifold.training import command


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


def test_any_other_error_ends_the_process_with_its_words_below_its_traceback(capsys):
    @ending_the_process()
    def work():
        raise KeyError("lost")

    with pytest.raises(SystemExit, match=r"^error: KeyError: 'lost'") as caught:
        work()
    log = f"{capsys.readouterr().err}{caught.value}\n"
    assert "Traceback (most recent call last)" in log
    assert last_error(log).startswith("error: KeyError: 'lost'")


def test_very_many_faults_are_counted_and_the_first_are_said():
    faults = Faults()
    for number in range(1000):
        faults.add(f"image {number} is broken")
    told = str(faults.error())
    assert told.startswith("1000 things are wrong:\n- image 0 is broken\n")
    assert told.endswith(f"- and {1000 - SHOWN_FAULTS} more")


PRINTS = "from manifold.training.command import run; import sys; run(lambda: {})"


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    ["print('x' * 100_000)", "print('x')", "(print('x'), sys.exit(0))", "sys.exit(print('x'))"],
)
def test_a_command_whose_output_nobody_reads_on_ends_without_a_word(work):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-c", PRINTS.format(work)]
    ended = subprocess.run(words, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_pipe_that_breaks_elsewhere_is_told(capfd):
    def work():
        read, write = os.pipe()
        os.close(read)
        try:
            os.write(write, b"x")
        finally:
            os.close(write)

    with pytest.raises(SystemExit, match="BrokenPipeError"):
        command.run(work)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["manifold", "benchmarks"])
@pytest.mark.parametrize(("words", "ends_with"), [(["--help"], 0), ([], 1), (["--hlep"], 1)])
def test_the_usage_is_an_error_where_nobody_asked(package, words, ends_with):
    ended = subprocess.run(
        [sys.executable, "-m", package, *words], capture_output=True, encoding="utf-8"
    )
    told, silent = ended.stdout, ended.stderr
    if ends_with:
        told, silent = silent, told
    assert (ended.returncode, silent) == (ends_with, "")
    assert told.startswith(f"usage: python -m {package} {{")
