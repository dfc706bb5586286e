"""What a long task shows: a bar on a terminal, and in a log lines that stay whole."""

import ast
import os
import pty
import re
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest

from manifold.settings import ROOT
from manifold.training import progress as module
from manifold.training import train
from manifold.training.progress import progress


class Recorder:
    """In the place of stderr: keeps what each call writes."""

    def __init__(self, is_terminal=False):
        self.calls = []
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.calls.append(text)

    def flush(self):
        pass


@pytest.fixture
def stderr(monkeypatch):
    recorder = Recorder()  # not in sys itself, where pytest puts its own before each test
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=recorder))
    return recorder


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when the test says so."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


# ---- lines -----------------------------------------------------------------------------------


def test_a_line_comes_every_15_seconds_and_at_the_end(stderr, clock):
    for _ in progress(range(10), what="seed 0, sp +4 [epoch 1/2]", unit="step"):
        clock(4)
    assert stderr.calls == [
        "seed 0, sp +4 [epoch 1/2]: 4/10 steps, 4.00 s/step, 24 s left\n",
        "seed 0, sp +4 [epoch 1/2]: 8/10 steps, 4.00 s/step, 8 s left\n",
        "seed 0, sp +4 [epoch 1/2]: 10/10 steps, 4.00 s/step, took 40 s\n",
    ]


@pytest.mark.parametrize(("seconds", "lines"), [(14.9, 0), (15, 2)])
def test_a_short_task_writes_nothing(seconds, lines, stderr, clock):
    for _ in progress(range(1), what="verify", unit="image"):
        clock(seconds)
    assert len(stderr.calls) == lines


def test_what_was_done_before_counts_for_no_rate(stderr, clock):
    shown = progress(what="resumed", unit="step", total=859, initial=400)
    clock(20)
    shown.update(246)
    assert stderr.calls == ["resumed: 646/859 steps, 12.3 step/s, 17 s left\n"]


def test_values_follow_and_the_end_says_where_it_stood(stderr, clock):
    shown = progress(what="detector", unit="batch")
    clock(30)
    shown.set_postfix(loss="0.250", refresh=False)
    shown.update(3)
    clock(30)
    shown.close()
    assert stderr.calls == [
        "detector: 3 batches, 10.0 s/batch, loss 0.250\n",
        "detector: 3 batches, 20.0 s/batch, took 1 min 0 s, loss 0.250\n",
    ]


def test_a_loop_that_is_left_says_where_it_stood(stderr, clock):
    for number in progress(iter(range(9)), what="verify", unit="image"):
        clock(10)
        if number == 1:
            break
    assert stderr.calls == ["verify: 1 images, 20.0 s/image, took 20 s\n"]


def test_a_task_that_has_not_begun_has_no_rate(stderr, clock):
    shown = progress(what="wait", unit="step", total=5)
    clock(16)
    shown.update(0)
    assert stderr.calls == ["wait: 0/5 steps\n"]


@pytest.mark.parametrize("disable", [True, None])
def test_what_is_not_to_be_shown_is_not(disable, stderr, clock):
    seen = []
    for item in progress("abc", what="letters", unit="letter", disable=disable):
        clock(60)
        seen.append(item)
    assert seen == ["a", "b", "c"] and stderr.calls == []


@pytest.mark.parametrize(
    ("number", "text"),
    [(1.234, "1.23"), (9.996, "10.0"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1234")],
)
def test_rates_have_three_digits(number, text):
    assert module._three_digits(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3600, "1 h 0 min"),
        (200000, "55 h 33 min"),
    ],
)
def test_durations_are_read_in_two_units(seconds, text):
    assert module.duration(seconds) == text


# ---- pipes and terminals ---------------------------------------------------------------------

MANY_LINES = """
import sys
from manifold.training import progress
progress.SECONDS_BETWEEN_LINES = 0
for _ in progress.progress(range(3000), what=sys.argv[1], unit="step"):
    pass
"""
LINE = re.compile(r"job (\d): (\d+)/3000 steps(, [\d.]+ (step/s|s/step))?, (\d+ s left|took \d+ s)")


@pytest.mark.slow
@pytest.mark.parametrize("option", [[], ["-u"]])
def test_jobs_at_once_mix_whole_lines_in_a_pipe(option):
    reading, writing = os.pipe()
    jobs = [
        subprocess.Popen(
            [sys.executable, *option, "-c", MANY_LINES, f"job {number}"], cwd=ROOT, stderr=writing
        )
        for number in range(2)
    ]
    os.close(writing)
    with open(reading, newline="", encoding="utf-8") as pipe:
        text = pipe.read()
    assert [job.wait() for job in jobs] == [0, 0]
    assert "\r" not in text and text.endswith("\n")
    found = [LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    assert all(found)
    for number in "01":
        counts = [int(match[2]) for match in found if match[1] == number]
        assert counts == [*range(1, 3001), 3000]


def test_a_terminal_has_a_bar():
    outside, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    code = (
        "from manifold.training.progress import progress\n"
        "for _ in progress(range(7), what='seed 0', unit='step', disable=None): pass"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(outside, 10000).decode()
    os.close(outside)
    assert re.search(r"\rseed 0: 100%\|█+\| 7/7 \[.*step/s\]", shown), shown


def test_all_that_is_asked_for_reaches_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Recorder(is_terminal=True))
    bar = progress(what="what", unit="image", total=9, initial=4, leave=False)
    assert (bar.desc, bar.unit, bar.total, bar.n, bar.leave) == ("what", "image", 9, 4, False)
    assert not bar.disable
    bar.close()
    assert progress([], what="", unit="", disable=True).disable


# ---- what is trained -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "name"), [(["sp"], "sp"), (["soft_kd", "none", "sp"], "soft_kd +2")]
)
def test_a_cohort_is_named_by_its_first_method(methods, name):
    assert train.cohort_name(methods) == name


@pytest.mark.slow
def test_a_training_says_what_it_trains(experiment, stderr, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    teacher = {"teacher": {"epochs": 2}}
    setting, cells = train.teacher_setting(
        experiment(data={"validation": 1181}, pairs={"deit-cait": teacher}), "deit-cait"
    )
    train.train(setting, cells)
    lines = [text for text in stderr.calls if text.strip()]
    start = f"seed {setting.seed}, none [epoch"
    for epoch in (1, 2):
        assert any(line.startswith(f"{start} {epoch}/2]: 1/2 steps, ") for line in lines)
    assert all(line.startswith(start) and line.endswith("\n") for line in lines)


def test_nothing_is_shown_another_way():
    for package in ("manifold", "baselines", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            names = {
                name.name
                for node in ast.walk(ast.parse(path.read_bytes()))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in node.names
            }
            assert "tqdm" not in names or path == ROOT / "manifold/training/progress.py", path
