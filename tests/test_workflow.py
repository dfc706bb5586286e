"""The workflow end to end at smoke scale: it finishes, rests, and rebuilds what is missing."""

import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import running
from matplotlib.text import Text

from benchmarks.ablation.figure import draw as draw_ablation
from benchmarks.evidence import publish, report, students
from benchmarks.evidence.asked import read_asked
from benchmarks.evidence.times import TIMES, read_runs
from benchmarks.recipes.figure import draw as draw_recipes
from benchmarks.recipes.measure import public_leads
from benchmarks.table1.figure import draw as draw_table1
from manifold.models import create_model, save_weights
from manifold.settings import ROOT, read_yaml, resolve, to_words

pytestmark = pytest.mark.slow

# Smoke with fewer images, in the folder of smoke: what is looked at here is no accuracy.
SMALL = {
    "scale": "smoke",
    "name": "smoke",
    "data": {"dataset": "faces", "validation": 30},
    "recipes": {
        "A": {"batch_size": 32},
        "B": {"batch_size": 64},
        "A-drop-path": {"batch_size": 32},
    },
    "detection": {"methods": ["soft_kd", "manifold"], "controls": ["random"], "pictures": 1},
}
WORDS = ("--config", *to_words(SMALL))
TARGETS = [f"table1.{suffix}" for suffix in ("md", "csv", "tex", "png", "pdf", "svg")]


@pytest.fixture(scope="module", autouse=True)
def _warm(on_path):
    """Let every job of every workflow start at once; most are shorter than their imports."""


def snakemake(folder, *arguments):
    return running.snakemake(folder, "--cores", "2", *arguments)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder that sees the workflow and has results of its own; its name has a space."""
    folder = tmp_path_factory.mktemp("a clone")
    for name in ("Snakefile", "workflow", "config", "profiles", "environment.yml"):
        os.symlink(ROOT / name, folder / name)
    (folder / "results").mkdir()
    for name in ("reported", "published"):
        if (ROOT / "results" / name).exists():
            os.symlink(ROOT / "results" / name, folder / "results" / name)
    return folder


@pytest.fixture(scope="module")
def finished(clone):
    """The clone with Table 1 in it."""
    done = snakemake(clone, "reproduce_table1", *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return clone


def test_table1_is_made_with_every_method_and_seed(finished):
    folder = finished / "results/smoke"
    assert all((folder / name).stat().st_size for name in TARGETS)
    rows = pd.read_csv(folder / "table1.csv")
    experiment = resolve(SMALL)
    assert list(rows["method"]) == [*experiment.methods, "teacher"]
    assert (rows["n"][:-1] == len(experiment.seeds)).all()
    teacher = json.loads((folder / "teachers/deit-cait/run.json").read_text(encoding="utf-8"))
    assert rows.set_index("method").loc["teacher", "top1_mean"] == teacher["result"]["top1"]
    assert not list(folder.rglob("*.partial")) and not list(folder.rglob("state/**/*.pt"))


def test_what_the_run_took_is_kept_with_its_jobs(finished):
    run, *_ = read_runs(finished / "results/smoke" / TIMES)
    assert (run["targets"], run["cores"]) == ("reproduce_table1", "2")
    assert int(run["jobs"]) == int(run["jobs_in_all"]) > 5 < float(run["wall_seconds"])


def test_what_the_run_is_asked_for_is_written_as_it_starts(finished):
    folder = finished / "results/smoke"
    asked = read_asked(folder)
    seen = {(method, seed) for *_, method, seed in asked.students}
    assert asked.targets == ["reproduce_table1"] and len(seen) == len(asked.students)
    assert {seed for _, seed in seen} == {0, 1} and {"none", "manifold"} <= {m for m, _ in seen}
    assert {"logs/table1.txt", "logs/teacher-deit-cait.txt"} < set(asked.jobs)
    assert all(asked.is_done(folder, log) for log in asked.jobs)
    assert all((folder / log).is_file() for log in asked.jobs)


def test_running_it_again_does_nothing(finished):
    done = snakemake(finished, "reproduce_table1", *WORDS)
    assert done.returncode == 0 and "Nothing to be done" in done.stderr + done.stdout


def test_a_whole_experiment_is_a_configuration(finished):
    path = "results/smoke/experiment.yaml"
    done = snakemake(finished, "reproduce_table1", "--configfile", path)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_deleted_student_is_trained_again_and_no_other(finished):
    cells = finished / "results/smoke/cells/deit-cait/A/2-epochs"
    before = {path: path.read_bytes() for path in cells.rglob("student.safetensors")}
    table = (finished / "results/smoke/table1.csv").stat().st_mtime_ns
    deleted = cells / "manifold" / "seed-1" / "student.safetensors"
    deleted.unlink()
    done = snakemake(finished, "reproduce_table1", *WORDS)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert "cells/deit-cait/A/2-epochs/sp/seed-1 is complete" in output
    assert "manifold/seed-1 is complete" not in output
    assert "Training seed 0" not in output
    assert {path: path.read_bytes() for path in before} == before
    assert (finished / "results/smoke/table1.csv").stat().st_mtime_ns > table
    again = snakemake(finished, "reproduce_table1", *WORDS)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_recipe_study_trains_what_table_1_has_not(finished):
    """One of its budgets is Table 1's, and the other is not."""
    before = (finished / "results/smoke/table1.csv").stat().st_mtime_ns
    done = snakemake(finished, "reproduce_recipes", *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pd.read_csv(finished / "results/smoke/recipes.csv")
    study = resolve(SMALL).recipe_study
    assert len(rows) == 2 * (1 + len(study.factors)) * len(study.methods)
    assert (finished / "results/smoke/recipes.pdf").stat().st_size
    top1 = rows.set_index(["recipe", "epochs", "method"]).loc[("A", 2), "top1_mean"]
    table = pd.read_csv(finished / "results/smoke/table1.csv").set_index("method")["top1_mean"]
    assert top1.to_dict() == pytest.approx(table[study.methods].to_dict())
    assert (finished / "results/smoke/table1.csv").stat().st_mtime_ns == before


def records_of_cells(folder):
    """Every run.json, which holds the time that a training took: another one has other bytes."""
    cells = folder / "results/smoke/cells"
    found = cells.rglob("run.json")
    # A run that ended with an error leaves the hidden links that keep finished cells.
    return {path: path.read_bytes() for path in found if not path.parent.name.startswith(".")}


def test_transfer_takes_the_students_that_are_there(finished):
    before = (finished / "results/smoke/table1.csv").stat().st_mtime_ns
    runs = records_of_cells(finished)
    done = snakemake(finished, "reproduce_transfer", *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records_of_cells(finished) == runs
    rows = pd.read_csv(finished / "results/smoke/transfer.csv")
    experiment = resolve(SMALL)
    assert list(rows["method"].unique()) == ["untrained", *experiment.transfer.methods]
    assert set(rows["data"]) == {"mean", *experiment.transfer.data}
    unchosen = {"linear-probe-fixed", "k-nn-fixed"}
    assert set(rows["protocol"]) == {"linear-probe", "k-nn", "fine-tuning", *unchosen}
    for suffix in ("md", "tex", "png", "pdf"):
        assert (finished / f"results/smoke/transfer.{suffix}").stat().st_size
    assert (finished / "results/smoke/table1.csv").stat().st_mtime_ns == before
    again = snakemake(finished, "reproduce_transfer", *WORDS)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_maps_and_curves_are_made_of_the_students_that_are_there(finished):
    runs = records_of_cells(finished)
    done = snakemake(finished, "reproduce_maps", "reproduce_curves", *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records_of_cells(finished) == runs
    folder, experiment = finished / "results/smoke", resolve(SMALL)
    for name in ("maps", "curves"):
        for path in experiment.studies[name].files():
            assert (folder / path.name).stat().st_size
    table = pd.read_csv(folder / "table1.csv").set_index("method")["top1_mean"]
    rows = pd.read_csv(folder / "maps.csv").set_index("method")
    methods = experiment.maps.methods
    assert rows.loc[methods, "top1_mean"].to_dict() == pytest.approx(table[methods].to_dict())
    again = snakemake(finished, "reproduce_maps", "reproduce_curves", *WORDS)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_detection_trains_detectors_on_the_students_that_are_there(finished):
    pytest.importorskip("mmdet")
    runs = records_of_cells(finished)
    done = snakemake(finished, "reproduce_detection", *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    folder, experiment = finished / "results/smoke", resolve(SMALL)
    rows = pd.read_csv(folder / "detection.csv")
    backbones = experiment.studies["detection"].backbones
    for detector, kinds in (("mask_rcnn", {"bbox", "segm"}), ("retinanet", {"bbox"})):
        own = rows[rows["detector"] == detector]
        assert set(own["kind"]) == kinds
        assert all(list(part["method"]) == backbones for _, part in own.groupby("kind"))
    assert (rows["n"] == len(experiment.seeds)).all() and rows["ap_mean"].between(0, 100).all()
    for name in ("detection.md", "detection.tex", "detection.png", "detection_pictures.pdf"):
        assert (folder / name).stat().st_size
    assert records_of_cells(finished) == runs
    again = snakemake(finished, "reproduce_detection", *WORDS)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_segmentation_takes_the_students_that_are_there(finished):
    pytest.importorskip("skimage")
    runs = records_of_cells(finished)
    of_table1 = {"segmentation": {"pair": "deit-cait", "epochs": 2}}
    words = ["reproduce_segmentation", *WORDS, *to_words(of_table1)]
    done = snakemake(finished, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    folder, study = (
        finished / "results/smoke",
        resolve({**SMALL, **of_table1}).studies["segmentation"],
    )
    rows = pd.read_csv(folder / "segmentation.csv")
    for _, own in rows.groupby("protocol"):
        assert list(own["method"]) == list(study.backbones)
    assert all((folder / path.name).stat().st_size for path in study.files())
    assert records_of_cells(finished) == runs
    again = snakemake(finished, *words)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_missing_transfer_data_set_stops_transfer_alone(finished):
    entry = "transfer={data: {mine: {dataset: folder, folder: /nowhere, validation: 5}}}"
    words = [*WORDS, entry]
    done = snakemake(finished, "reproduce_table1", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    done = snakemake(finished, "reproduce_transfer", *words)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "Traceback" not in output and "Probing" not in output
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: transfer.data.mine: /nowhere: no such folder")


@pytest.mark.parametrize("recipe", ["A", "B"])
def test_every_method_trains_under_either_recipe(recipe, tmp_path):
    weights, networks = tmp_path / "teacher.safetensors", resolve({"scale": "smoke"}).pairs
    save_weights(create_model(networks["deit-cait"].teacher.model, (1, 8, 8), 3), weights)
    pairs = {"deit-cait": {"teacher": {"weights": str(weights)}}}
    few = {"dataset": "textures", "validation": 320}  # and 64 images to train on: two steps
    steps = {"recipes": {recipe: {"batch_size": 32}}}
    own = {"results": str(tmp_path), "name": "all", "pairs": pairs, "data": few, **steps}
    overrides = {"scale": "smoke", **own}
    experiment = resolve(overrides)
    # The one whose class tokens this teacher lacks is trained in test_wider_students.py.
    methods = [method for method in experiment.method_definitions if method != "cls_kd"]
    command = ["python", "-m", "manifold", "train", "--config", *to_words(overrides)]
    options = ["--recipe", recipe, "--epochs", "1", "--seed", "1", "--methods", *methods]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    students = {}
    for method in methods:
        directory = experiment.cell_directory("deit-cait", recipe, 1, method, 1)
        record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        assert 0 <= record["result"]["top1"] <= 100 and record["recipe_name"] == recipe
        assert pd.read_csv(directory / "metrics.csv")["loss"].notna().all()
        students[method] = record["files"]["student.safetensors"]
    # The temperature of smoke's recipes is 2; else no method is another one in disguise.
    assert students.pop("soft_kd_temperature_2") == students["soft_kd"]
    assert len(set(students.values())) == len(methods) - 1


def test_students_are_evaluated_again_and_held_to_their_records(finished, tmp_path, monkeypatch):
    made = resolve({**SMALL, "results": str(tmp_path)})
    cells = [("deit-cait", "A", 2, method, 0) for method in ("hard_kd_token", "sp")]
    own = resolve({**SMALL, "results": str(finished / "results")})
    for key in cells:
        shutil.copytree(own.cell_directory(*key), made.cell_directory(*key))
    shutil.copytree(own.teacher_directory("deit-cait"), made.teacher_directory("deit-cait"))
    monkeypatch.setattr(students, "keys", lambda _: cells)

    def found():
        looked = students.Verified()
        students.verify_students(made, looked)
        return looked

    *_, said = found().same
    assert said.startswith("2 student(s) reach what their records say to the last digit")
    assert not found().other
    record = made.cell_directory(*cells[0]) / "run.json"
    run = json.loads(record.read_text(encoding="utf-8"))
    run["result"]["top1"] += 0.01
    record.write_text(json.dumps(run), encoding="utf-8")
    weights = made.cell_directory(*cells[1]) / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    first, second = found().other
    assert first.startswith(f"{weights}: other bytes") and second.startswith(f"{record}: says")


def test_the_report_is_one_page_of_what_is_there(finished):
    done = snakemake(finished, "report", *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (finished / "results/smoke/report.html").read_text(encoding="utf-8")
    assert 'id="table1"' in text and "data:image/svg+xml" in text
    again = snakemake(finished, "report", *WORDS)
    assert "Nothing to be done" in again.stdout + again.stderr


def texts(figure):
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(Text)}


def test_a_method_of_ones_own_stands_in_every_table_and_figure(finished, monkeypatch):
    """The page's file and entry, beside the packages: nothing in them is edited."""
    section = (ROOT / "docs/own-method.md").read_text(encoding="utf-8")
    for name, language in (("mine.py", "python"), ("mine.yaml", "yaml")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
        (finished / name).write_text(block, encoding="utf-8")
    tables = ("table1", "bench", "recipes", "ablation")
    done = snakemake(
        finished,
        *(f"reproduce_{name}" for name in tables),
        *("--configfile", "mine.yaml", *WORDS),
    )
    assert done.returncode == 0, done.stdout + done.stderr

    monkeypatch.chdir(finished)
    own = read_yaml(finished / "mine.yaml")
    assert resolve({"scale": "smoke", **own}).name == "smoke"  # a new method shapes no other's cell
    experiment = resolve({**SMALL, **own})
    seeds = len(experiment.seeds)
    rows = {name: pd.read_csv(experiment.directory / f"{name}.csv") for name in tables}
    runs = {name: pd.read_csv(experiment.directory / f"{name}_seeds.csv") for name in tables}
    found = {name: list(rows[name]["method"]).count("mine") for name in tables}
    study = experiment.recipe_study
    under = (1 + len(study.factors)) * len(study.epochs)
    assert found == {"table1": 1, "bench": 1, "recipes": under, "ablation": 1}
    assert {name: list(runs[name]["method"]).count("mine") for name in tables} == {
        name: count * seeds for name, count in found.items()
    }
    for name in tables:
        assert "Mine" in (experiment.directory / f"{name}.md").read_text(encoding="utf-8")
        assert "Mine" in (experiment.directory / f"{name}.tex").read_text(encoding="utf-8")
    title = experiment.method_definitions[experiment.table1.baseline].title
    for name in ("table1", "bench"):
        figure = draw_table1(rows[name], runs[name], experiment.table1.baseline, "")
        assert "Mine" in texts(figure)
    public = public_leads(Path(study.public_curves))
    figure = draw_recipes(rows["recipes"], runs["recipes"], public, study.baseline, title, "")
    assert "Mine" in texts(figure)
    assert "Mine" in texts(draw_ablation(rows["ablation"], runs["ablation"], title, ""))


def test_ones_own_method_is_trained_again_after_an_edit_and_no_other(finished):
    """The loop of the page's ten minutes: edit, and run the same command again."""
    command = ("reproduce_table1", "--configfile", "mine.yaml", *WORDS)
    done = snakemake(finished, *command)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr
    before = records_of_cells(finished)
    mine = finished / "mine.py"
    mine.write_text(
        mine.read_text(encoding="utf-8") + "\n# a comment is no edit\n", encoding="utf-8"
    )
    done = snakemake(finished, *command)
    assert "Nothing to be done" in done.stdout + done.stderr
    before_edit = mine.read_text(encoding="utf-8")
    mine.write_text(before_edit.replace("self.weight *", "2 * self.weight *"), encoding="utf-8")
    assert mine.read_text(encoding="utf-8") != before_edit
    done = snakemake(finished, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    after = records_of_cells(finished)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {path for path in before if "A/2-epochs/mine" in str(path)}
    again = snakemake(finished, *command)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_study_of_ones_own_is_made_in_all_formats_and_published(finished, tmp_path, monkeypatch):
    """The docs' file and section, beside the packages."""
    page = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    for name, language in (("spread.py", "python"), ("spread.yaml", "yaml")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        (finished / name).write_text(block, encoding="utf-8")
    before = records_of_cells(finished)
    words = ("--configfile", "spread.yaml", *WORDS)
    done = snakemake(finished, "reproduce_spread", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert records_of_cells(finished) == before  # Table 1 has its cells
    monkeypatch.chdir(finished)
    monkeypatch.syspath_prepend(str(finished))
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path)
    experiment = resolve({**SMALL, **read_yaml(finished / "spread.yaml")})
    study = experiment.studies["spread"]
    suffixes = {".md", ".csv", ".tex", ".png", ".pdf", ".svg"}
    assert {path.suffix for path in study.files() if path.stat().st_size} == suffixes
    assert "left out (" not in report.page(experiment, experiment.directory)
    published = {path.name for path in publish.publish(experiment)}
    assert {path.name for path in study.files()} | {"experiment.yaml"} <= published
    shown = publish.results_page([study], tmp_path / "smoke")
    assert f"## {study.title}\n\n*{study.question}*" in shown and "widest here" in shown


def test_the_report_shows_every_table_and_figure(finished):
    report = finished / "report.zip"
    done = snakemake(finished, "reproduce_table1", "--report", report, *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(report) as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert {path.name for path in resolve(SMALL).studies["table1"].files()} <= names


def test_another_data_set_stands_apart(finished):
    done = snakemake(finished, "-n", "--config", "scale=smoke", "data={validation: 100}")
    assert done.returncode == 0
    assert "results/smoke/" not in done.stdout + done.stderr
    assert "results/smoke-" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("reproduce_table1", ["mehtods=[none]"], "Did you mean 'methods'?"),
        ("reproduce_table1", ["seeds=[3]"], "at least two"),
        ("reproduce_table1", ["pairs={deit-cait: {student: {name: deit_tinny}}}"], "deit_tinny"),
        ("reproduce_table1", ["machine={compile: nonsense}", "name=other"], "machine.compile"),
        ("reproduce_transfer", ["transfer={data: {faces: {shots: [5000]}}}", "name=other"], "5000"),
        ("check", ["transfer={data: {faces: {shots: [5000]}}}", "name=other"], "faces.shots"),
    ],
)
def test_a_user_error_ends_the_workflow_before_any_training(clone, target, words, message):
    before = set(clone.glob("results/*/cells")) | set(clone.glob("results/*/teachers"))
    done = snakemake(clone, target, "--config", "scale=smoke", *words)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert set(clone.glob("results/*/cells")) | set(clone.glob("results/*/teachers")) == before
