"""Two folders side by side: every number from its records, and what cannot be used is named."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from made_cells import METHODS, SEEDS, TRAINING, top1_of, train
from scipy import stats

from benchmarks.evidence import compare as page
from benchmarks.evidence.comparison import compare
from benchmarks.evidence.differences import lines, measured
from benchmarks.evidence.records import write_records
from benchmarks.evidence.runs import read_runs
from benchmarks.evidence.statistics import unpaired_difference
from manifold.errors import UserError
from manifold.settings import fingerprint, resolve, write_experiment
from manifold.settings.recorded import record_path


@pytest.fixture
def two(make):
    """Two folders of the same runs."""
    experiments = make("mine"), make("theirs")
    for experiment in experiments:
        train(experiment, SEEDS)
        write_experiment(experiment)
    return experiments


def compared(first, second):
    return compare(first.directory, second.directory, first)


def row_of(found, title, part=0):
    rows = measured(found.parts[part], found.confidence)
    (row,) = rows[rows["method"] == title].to_dict("records")
    return row


def words(found, part=0):
    """What is said of a part."""
    own = found.parts[part]
    return lines(own, measured(own, found.confidence), found.names, found.confidence)


def cell(experiment, method="manifold", seed=0):
    return experiment.cell_directory(*TRAINING, method, seed) / "run.json"


def change(path, **values):
    """Change a run.json, whole as it is."""
    run = json.loads(path.read_text(encoding="utf-8")) | values
    run["fingerprint"] = fingerprint(run["configuration"])
    path.write_text(json.dumps(run), encoding="utf-8")


def with_top1(experiment, method, values):
    for seed, top1 in enumerate(values):
        path = cell(experiment, method, seed)
        run = json.loads(path.read_text(encoding="utf-8"))
        files = run["files"] | {"student.safetensors": f"{top1}"}
        change(path, result=run["result"] | {"top1": top1}, files=files)


def test_the_same_runs_are_the_same_to_the_last_bit(two):
    found = compared(*two)
    assert found.faults == [] and [part.title for part in found.parts] == ["Table 1"]
    row = row_of(found, "Soft KD")
    assert (row["same_seeds"], row["paired_seeds"], row["p"]) == (4, 4, 1.0)
    assert row["difference_low"] == row["difference_high"] == 0


def test_other_code_is_paired_by_seed_and_named(two):
    change(cell(two[0], seed=0), source_hash="abcdef0123", environment={"git_commit": "0ther00"})
    with_top1(two[0], "soft_kd", [75.0, 75.5, 74.0, 76.0])
    found = compared(*two)
    row = row_of(found, "Soft KD")
    differences = [75.0, 75.5, 74.0, 76.0] - np.array([top1_of("soft_kd", s) for s in SEEDS])
    told = stats.ttest_1samp(differences, 0)
    assert row["p"] == pytest.approx(told.pvalue) and row["same_seeds"] == 0
    assert [row["difference_low"], row["difference_high"]] == pytest.approx(
        list(told.confidence_interval(0.95))
    )
    said = "\n".join(words(found))
    assert "8 of 12 runs that both have are the same to the last bit" in said
    assert "commit: 0ther00, c0ffee in" in said and "method's code: abcdef01, unknown in" in said


def test_another_recipe_is_two_samples_and_its_keys_are_named(two):
    for seed in SEEDS:
        path = cell(two[1], "soft_kd", seed)
        configuration = json.loads(path.read_text(encoding="utf-8"))["configuration"]
        configuration["recipe"]["optimizer"]["learning_rate"] = 0.5
        change(path, configuration=configuration)
    with_top1(two[0], "soft_kd", [75.0, 75.5, 74.0, 76.0])
    row = row_of(compared(*two), "Soft KD")
    assert "recipe.optimizer.learning_rate is " in row["differs_in"]
    assert "0.5 in the second" in row["differs_in"] and row["paired_seeds"] == 0
    theirs = [top1_of("soft_kd", seed) for seed in SEEDS]
    told = stats.ttest_ind([75.0, 75.5, 74.0, 76.0], theirs, equal_var=False)
    assert row["p"] == pytest.approx(told.pvalue)
    assert [row["difference_low"], row["difference_high"]] == pytest.approx(
        list(told.confidence_interval(0.95))
    )


def test_other_data_and_another_teacher_are_named(two):
    for seed in SEEDS:
        change(cell(two[1], "none", seed), data_digest="files-1")
        path = cell(two[1], "soft_kd", seed)
        configuration = json.loads(path.read_text(encoding="utf-8"))["configuration"]
        change(path, configuration=configuration | {"teacher_sha256": "another"})
    found = compared(*two)
    assert (
        "data_digest is None in the first and 'files-1'"
        in row_of(found, "No distillation")["differs_in"]
    )
    assert "teacher_sha256 is " in row_of(found, "Soft KD")["differs_in"]


def test_rows_and_seeds_that_one_lacks_are_shown_as_such(two):
    for seed in SEEDS:
        shutil.rmtree(cell(two[1], seed=seed).parent)
    shutil.rmtree(cell(two[1], "none", 3).parent)
    found = compared(*two)
    only, part = row_of(found, "Manifold, decoupled"), row_of(found, "No distillation")
    assert math.isnan(only["p"])
    assert (only["first_n"], only["second_n"]) == (4, 0)
    assert (part["second_n"], part["paired_seeds"]) == (3, 3)
    assert [fault for fault in found.faults if "none is without seed 3" in fault]
    assert f"only in {two[0].directory}: Manifold, decoupled" in words(found)


def damage(path):
    path.write_bytes(b"\xff{")


def alter(path):
    run = json.loads(path.read_text(encoding="utf-8"))
    run["configuration"]["epochs"] = 99
    path.write_text(json.dumps(run), encoding="utf-8")


def cut(path):
    run = json.loads(path.read_text(encoding="utf-8"))
    del run["result"]
    path.write_text(json.dumps(run), encoding="utf-8")


def break_off(path):
    change(path, result={"top1": math.nan})


def misplace(path):
    change(path, seed=7)


def take_metrics(path):
    path.with_name("metrics.csv").unlink()


def swap_metrics(path):
    path.with_name("metrics.csv").write_text("epoch\n1\n", encoding="utf-8")


def train_otherwise(path):
    run = json.loads(path.read_text(encoding="utf-8"))
    change(path, configuration=run["configuration"] | {"epochs": 3})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage, "is damaged"),
        (alter, "was altered"),
        (cut, "lacks 'result'"),
        (break_off, "top-1 nan"),
        (misplace, "is of another run: deit-cait/A/2/manifold/7"),
        (take_metrics, "without its metrics.csv"),
        (swap_metrics, "not of the metrics.csv beside it"),
        (train_otherwise, "not of one kind with its row: epochs is 2 in the row's others and 3"),
    ],
)
def test_what_cannot_be_used_is_named_and_left_out(two, harm, words):
    harm(cell(two[0]))
    found = compared(*two)
    assert [fault for fault in found.faults if words in fault and "manifold/seed-0" in fault]
    row = row_of(found, "Manifold, decoupled")
    assert row["first_n"] == 3 and row["first_mean"] == pytest.approx(
        np.mean([top1_of("manifold", seed) for seed in SEEDS[1:]])
    )


def test_a_foreign_run_is_named_and_left_out(two):
    write_experiment(two[0].replaced(seeds=SEEDS[1:]))
    found = compared(*two)
    assert sum("is of no study of" in fault for fault in found.faults) == len(METHODS)
    assert row_of(found, "Soft KD")["first_n"] == 3


def test_records_alone_say_what_cells_say(two, tmp_path):
    mine, theirs = two
    write_records(theirs, tmp_path / "records-alone")
    found = compare(mine.directory, tmp_path / "records-alone", mine)
    assert row_of(found, "Soft KD")["same_seeds"] == 4
    altered = record_path(tmp_path / "records-alone", (*TRAINING, "none", 2))
    altered.write_text(altered.read_text(encoding="utf-8").replace("72.", "99."), "utf-8")
    altered.write_text(altered.read_text(encoding="utf-8").replace("70.", "99."), "utf-8")
    (fault,) = read_runs(tmp_path / "records-alone").faults
    assert "none/seed-2.json was altered" in fault


def test_a_cell_comes_before_its_record_and_another_result_is_named(two):
    mine, _ = two
    write_records(mine, mine.directory / "records")
    assert read_runs(mine.directory).faults == []
    with_top1(mine, "none", [1.0])
    (fault,) = read_runs(mine.directory).faults
    assert "says top-1 70.00 of a cell that is here with 1.00; the cell counts" in fault


def test_a_study_without_records_is_compared_by_its_table_of_runs(two):
    mine, theirs = two
    columns = ["data", "method", "seed", "protocol", "shots", "top1", "git_commit", "fingerprint"]
    lines = [
        ["digits", "soft_kd", seed, "k-nn", 5, 50 + seed, "c0ffee", f"f{seed}"] for seed in SEEDS
    ]
    for experiment, more in (
        (mine, [["digits", "none", 0, "k-nn", 5, "", "c", "f"]]),
        (theirs, []),
    ):
        table = pd.DataFrame([*lines, *more], columns=columns)
        table.to_csv(experiment.directory / "transfer_seeds.csv", index=False)
    smoke = resolve({"scale": "smoke"})
    for experiment in two:
        (experiment.directory / "experiment.yaml").unlink()
    found = compare(mine.directory, theirs.directory, smoke)
    (part,) = [part for part in found.parts if part.title == "Transfer learning"]
    assert list(part.rows) == [("digits, k-nn, 5", "Soft KD")]
    (row,) = measured(part, 0.95).to_dict("records")
    assert (row["same_seeds"], row["paired_seeds"]) == (4, 4)
    assert any("transfer_seeds.csv, line 6: left out" in fault for fault in found.faults)
    (theirs.directory / "transfer_seeds.csv").unlink()
    again = compare(mine.directory, theirs.directory, smoke)
    assert any("Transfer learning: not compared: only" in fault for fault in again.faults)


def test_a_folder_with_its_table_alone_is_compared_with_records_of_the_same_runs(two):
    """As what was published, of which the table is here, with one's own results."""
    mine, theirs = two
    for experiment in two:
        rows = [
            {
                **dict(zip(("pair", "recipe", "epochs"), TRAINING, strict=True)),
                **{"method": method, "seed": seed, "top1": top1_of(method, seed)},
                "git_commit": "c0ffee",
                "fingerprint": json.loads(cell(mine, method, seed).read_text("utf-8"))[
                    "fingerprint"
                ],
            }
            for method in (METHODS if experiment is mine else METHODS[:2])
            for seed in SEEDS
        ]
        pd.DataFrame(rows).to_csv(experiment.directory / "table1_seeds.csv", index=False)
    assert [part.source for part in compared(*two).parts] == ["from the records of the runs"]
    shutil.rmtree(theirs.directory / "cells")
    found = compared(*two)
    (part,) = found.parts
    assert part.source.startswith("from table1_seeds.csv")
    row = row_of(found, "Soft KD")
    assert (row["first_n"], row["second_n"], row["paired_seeds"]) == (4, 4, 4)
    assert row_of(found, "Manifold, decoupled")["first_n"] == 4  # that they have not


def test_folders_that_hold_nothing_or_are_one_are_refused(two, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="have nothing to compare"):
        compare(tmp_path / "empty", tmp_path, resolve({"scale": "smoke"}))
    with pytest.raises(UserError, match="are one folder"):
        compared(two[0], two[0])
    with pytest.raises(UserError, match="no such folder"):
        compare(tmp_path / "none", tmp_path, two[0])


@pytest.mark.slow
def test_nothing_is_written_into_what_is_compared(two, tmp_path, monkeypatch, capsys):
    folders = [experiment.directory.resolve() for experiment in two]
    before = [sorted(folder.rglob("*")) for folder in folders]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", *map(str, folders)])
    page.main()
    assert [sorted(folder.rglob("*")) for folder in folders] == before
    assert (tmp_path / "results/comparison/comparison.html").is_file()
    assert "results/comparison/comparison.html: " in capsys.readouterr().out


def test_folders_say_themselves_what_they_are_of(two, monkeypatch):
    folders = [str(experiment.directory) for experiment in two]
    monkeypatch.setattr("sys.argv", ["compare", *folders, "--config", "scale=mini"])
    with pytest.raises(UserError, match="says what the folder is of; leave --config and"):
        page.main()
    for experiment in two:
        (experiment.directory / "experiment.yaml").unlink()
    monkeypatch.setattr("sys.argv", ["compare", *folders])
    with pytest.raises(UserError, match=r"has no experiment\.yaml; .* as in --config scale=mini"):
        page.main()
    with pytest.raises(UserError, match=r"a readable experiment\.yaml; say what they are of"):
        compare(two[0].directory, two[1].directory)


def test_a_figure_that_fails_takes_no_page_and_no_table_with_it(two, monkeypatch):
    def draw(rows, text):
        raise ZeroDivisionError("of matplotlib's")

    monkeypatch.setattr(page, "draw", draw)
    damage(cell(two[0]))
    with pytest.raises(UserError, match="cannot be drawn"):
        page.write(compared(*two), two[0].directory)
    made = two[0].directory / "comparison.html"
    text = made.read_text(encoding="utf-8")
    assert "cannot be drawn" in text and "manifold/seed-0/run.json is damaged" in text
    assert "<img" not in text and made.with_suffix(".csv").is_file()
    assert "seed-0/run.json is damaged" in made.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_names_are_text_whatever_stands_in_them(make):
    odd = r"R&D | $a$ _b_ <b>x</b> 蒸馏"
    definitions = {"soft_kd": {"title": odd}}
    mine, theirs = (make(name, method_definitions=definitions) for name in ("mine", "theirs"))
    for experiment in (mine, theirs):
        train(experiment, SEEDS)
        write_experiment(experiment)
    made = page.write(compared(mine, theirs), mine.directory)
    assert "R&amp;D | $a$ _b_ &lt;b&gt;x&lt;/b&gt; 蒸馏" in made.read_text(encoding="utf-8")
    markdown = made.with_suffix(".md").read_text(encoding="utf-8")
    assert r"R&D \| \$a\$ \_b\_ \<b>x\</b> 蒸馏" in markdown
    assert r"R\&D \textbar{} \$a\$ \_b\_" in made.with_suffix(".tex").read_text(encoding="utf-8")
    assert pd.read_csv(made.with_suffix(".csv"))["method"].tolist().count(odd) == 1


def test_two_samples_are_held_to_welchs_test():
    first, second = [80.0, 82.0, 81.0], [79.0, 79.5]
    told = stats.ttest_ind(first, second, equal_var=False)
    found = unpaired_difference(first, second, 0.95)
    assert found.p == pytest.approx(told.pvalue) and found.mean == pytest.approx(1.75)
    assert [found.low, found.high] == pytest.approx(list(told.confidence_interval(0.95)))
    assert unpaired_difference([1.0, 1.0], [1.0, 1.0], 0.95).p == 1.0
    assert unpaired_difference([2.0, 2.0], [1.0, 1.0], 0.95).p == 0.0
    with pytest.raises(ValueError, match="at least two"):
        unpaired_difference([1.0], second, 0.95)
