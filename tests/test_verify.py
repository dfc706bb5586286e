"""What `verify` finds: students that are not their records, and what is missing or altered."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from made_cells import METHODS, SEEDS, TRAINING, top1_of, train

from benchmarks.evidence import publish, report, students, sums, verify
from benchmarks.evidence.records import write_records
from benchmarks.evidence.students import Verified, verify_published_students, verify_students
from manifold.errors import UserError
from manifold.settings.recorded import RECORDS, packed, record_path

MACHINE = {"processor": "a processor", "device": "cpu", "threads": 1, "packages": {"torch": "2"}}


def reached(experiment, model, weights, split):
    """What a made student would reach: its file says whose it is."""
    method, seed = Path(weights).read_text(encoding="utf-8").split()
    assert split == "test"
    return {"top1": top1_of(method, int(seed))}


@pytest.fixture
def made(make, monkeypatch):
    """A whole study, made on this machine."""
    monkeypatch.setattr(students, "evaluate_checkpoint", reached)
    monkeypatch.setattr(students, "load_splits", lambda data: data)
    monkeypatch.setattr(students, "describe_environment", lambda _: dict(MACHINE))
    monkeypatch.setattr(students, "SAME_MACHINE", ())  # made cells do not say it
    whole = make("whole")
    train(whole, SEEDS)
    (whole.directory / "table1.csv").write_text("method\n", encoding="utf-8")
    return whole


def verified(experiment):
    found = Verified()
    verify_students(experiment, found)
    return found


def cell(experiment, method="soft_kd", seed=1):
    return experiment.cell_directory(*TRAINING, method, seed)


def changed(path, change):
    run = json.loads(path.read_text(encoding="utf-8"))
    change(run)
    path.write_text(json.dumps(run), encoding="utf-8")


def raised(by):
    def change(run):
        run["result"]["top1"] += by

    return change


def elsewhere(run):
    run["environment"]["processor"] = "another processor"


def test_a_student_is_held_to_the_last_digit_where_it_was_made(made):
    found = verified(made)
    assert found.other == found.unknown == []
    rule = "12 student(s) reach what their records say to the last digit"
    assert [line for line in found.same if line.startswith(rule)]
    changed(cell(made) / "run.json", raised(0.09))
    (other,) = verified(made).other
    assert other.startswith(f"{cell(made) / 'run.json'}: says 73.5")
    assert other.endswith("on the same machine")


def test_a_student_of_another_machine_is_held_to_one_image_in_a_thousand(made):
    changed(cell(made) / "run.json", elsewhere)
    changed(cell(made) / "run.json", raised(0.09))
    found = verified(made)
    assert found.other == []
    rule = "1 student(s) reach what their records say within one test image in a thousand"
    assert [line for line in found.same if line.startswith(rule)]
    changed(cell(made) / "run.json", raised(0.02))
    (other,) = verified(made).other
    assert other.endswith("on another machine")


@pytest.mark.parametrize("name", ["metrics.csv", "student.safetensors"])
def test_replaced_and_deleted_files_of_a_cell_are_named(made, name):
    (cell(made) / name).write_text("other", encoding="utf-8")
    assert verified(made).other == [f"{cell(made) / name}: other bytes than those of its record"]
    (cell(made) / name).unlink()
    assert verified(made).other == [f"{cell(made)} lacks {name}, which table1.csv is made of"]


def test_a_deleted_cell_of_a_table_is_named_and_without_a_table_is_none(made):
    shutil.rmtree(cell(made))
    (other,) = verified(made).other
    assert other == f"no {cell(made)}, which table1.csv is made of"
    (made.directory / "table1.csv").unlink()
    assert verified(made).other == []


def test_swapped_cells_and_those_of_another_configuration_are_named(made, make):
    first, second = cell(made, seed=1), cell(made, seed=2)
    first.rename(made.directory / "aside")
    second.rename(first)
    (made.directory / "aside").rename(second)
    assert verified(made).other == [
        f"{first / 'run.json'} is of another run: deit-cait/A/2/soft_kd/2",
        f"{second / 'run.json'} is of another run: deit-cait/A/2/soft_kd/1",
    ]
    other = make("whole", recipes={"A": {"optimizer": {"learning_rate": 0.5}}})
    assert "is of another configuration: recipe.optimizer.learning_rate" in verified(other).other[0]


def test_where_only_records_are_their_number_is_said(made):
    write_records(made, made.directory / RECORDS)
    for seed in SEEDS[:2]:
        shutil.rmtree(cell(made, seed=seed))
    found = verified(made)
    assert found.other == []
    assert found.unknown == ["2 student(s) of which only the record is here"]
    record = record_path(made.directory / RECORDS, (*TRAINING, "soft_kd", 0))
    record.rename(record.with_name("seed-1.json"))
    missing, renamed = verified(made).other
    assert renamed == f"{record.with_name('seed-1.json')} is of another run: " + (
        "deit-cait/A/2/soft_kd/0"
    )
    assert missing == f"no {cell(made, seed=0)}, which table1.csv is made of"


def test_the_teachers_file_is_held_to_what_its_students_record(made):
    made.teacher_weights("deit-cait").write_bytes(b"others")
    bytes_, measured = verified(made).other
    assert bytes_.startswith(f"{made.teacher_weights('deit-cait')}: other bytes than")
    assert "of 12 student(s)" in bytes_ and "evaluation.json is of other weights" in measured
    made.teacher_weights("deit-cait").unlink()
    (missing,) = verified(made).other
    assert "is missing, the teacher of 12 student(s)" in missing


def test_a_folder_without_anything_is_an_error_that_names_it(made, make, tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}/none/study holds no student and no record"):
        verified(make("none"))
    with pytest.raises(UserError, match="mini is no folder with files"):
        verify.verify_files(tmp_path / "mini", Verified())


# ---- tables of one's own ---------------------------------------------------------------------


@pytest.fixture
def tabled(made):
    """The study with its table as its runs give it."""
    for name, text in made.studies["table1"].document().texts("table1").items():
        (made.directory / name).write_text(text, encoding="utf-8")
    return made


def test_ones_own_tables_are_held_to_their_runs(tabled):
    found = Verified()
    verify.verify_own_tables(tabled, found)
    assert found.other == found.unknown == [] and len(found.same) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1.csv", "table1.md", "table1_seeds.csv"])
def test_an_altered_table_of_ones_own_is_found_and_named_on_the_page(tabled, name):
    path, found = tabled.directory / name, Verified()
    path.write_text(path.read_text(encoding="utf-8").replace("70.", "90.", 1), encoding="utf-8")
    verify.verify_own_tables(tabled, found)
    (other,) = found.other
    assert other.startswith(f"{path}: ") and "90." in other
    assert f"{name} is not what its runs give" in report.page(tabled, tabled.directory)


# ---- what is published -----------------------------------------------------------------------


def test_a_published_folder_says_what_it_is_of(monkeypatch):
    looked, threads = [], []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for part in ("verify_tables", "verify_published_students"):
        monkeypatch.setattr(verify, part, lambda experiment, *_: looked.append(experiment))
    words = ["verify", "--published", str(publish.PUBLISHED / "cifar10")]
    monkeypatch.setattr(sys, "argv", words)
    verify.main()
    assert {(experiment.name, experiment.data.dataset) for experiment in looked} == {
        ("cifar10", "cifar10_images")
    }
    assert threads == [1]  # as its students were made: other ones round otherwise
    monkeypatch.setattr(sys, "argv", [*words, "--config", "scale=mini"])
    with pytest.raises(UserError, match="leave --config and --experiment away"):
        verify.main()


@pytest.fixture
def published(made, tmp_path):
    folder = tmp_path / "published"
    write_records(made, folder / RECORDS)
    publish.publish_students(made, folder / publish.STUDENTS)
    return folder


def verified_there(experiment, folder):
    found = Verified()
    verify_published_students(experiment, folder, found)
    return found


def of(folder, method):
    return folder / publish.STUDENTS / "deit-cait/A/2-epochs" / method / "seed-0"


def test_the_first_seeds_students_are_published_and_held_to_the_records(made, published, make):
    files = sorted(path for path in published.rglob("students/**/*") if path.is_file())
    names = ("run.json", "student.safetensors")
    assert files == sorted(of(published, method) / name for method in METHODS for name in names)
    found = verified_there(make("elsewhere"), published)
    assert found.other == [] and found.same[-1].startswith("3 student(s) reach what their records")


def test_published_students_stay_where_only_records_are_and_others_go(made, published):
    write_records(made, made.directory / RECORDS)
    shutil.rmtree(made.directory / "cells")
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    (of(published, "none").with_name("seed-7")).mkdir()
    shutil.copytree(of(published, "none"), of(published, "none").with_name("seed-8"))
    publish.publish_students(made, published / publish.STUDENTS)
    assert before == {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}


def test_altered_published_students_are_named(made, published):
    (of(published, "none") / "student.safetensors").write_bytes(b"none 1")
    changed(of(published, "soft_kd") / "run.json", raised(0.01))
    record_path(published / RECORDS, (*TRAINING, "manifold", 0)).unlink()
    manifold, none, soft_kd = verified_there(made, published).other
    assert manifold.startswith(f"{of(published, 'manifold')} is without its record")
    assert "none/seed-0/student.safetensors: other bytes than those of its record" in none
    assert "soft_kd/seed-0/run.json is not its record: result.top1 is 73.0 there and 73.01" in (
        soft_kd
    )


def test_the_teacher_that_is_published_with_them_is_looked_at(made, published):
    teacher = made.teacher_weights("deit-cait")
    own = published / teacher.parent.name / teacher.name
    own.parent.mkdir()
    own.write_bytes(teacher.read_bytes())
    found = verified_there(made, published)
    assert found.other == [] and any(str(own) in line for line in found.same)
    own.write_bytes(b"altered")
    (other,) = verified_there(made, published).other
    assert other.startswith(f"{own}: other bytes than those of the teacher of 3 student(s)")


def test_a_record_that_was_altered_and_hashed_anew_is_not_what_its_student_reaches(made, published):
    path = record_path(published / RECORDS, (*TRAINING, "none", 0))
    content = json.loads(path.read_text("utf-8"))
    content["run"]["result"]["top1"] += 0.05
    del content["sha256"]
    path.write_text(packed(content), "utf-8")
    (of(published, "none") / "run.json").write_text(json.dumps(content["run"]), "utf-8")
    (other,) = verified_there(made, published).other
    assert "says 70.05, and its student reaches 70.0 on the same machine" in other


def test_without_the_data_it_says_what_is_missing(made, published, monkeypatch):
    def missing(data):
        raise UserError("data/images: no such folder")

    monkeypatch.setattr(students, "load_splits", missing)
    found = verified_there(made, published)
    assert found.other == [] and "data/images: no such folder" in found.unknown[0]


def test_the_files_of_a_published_folder_are_held_to_their_sums(published):
    sums.write(published)
    found = Verified()
    verify.verify_files(published, found)
    assert found.other == [] and len(found.same) == 1
    (published / "table1.png").write_bytes(b"")
    verify.verify_files(published, found)
    assert found.other == [f"{published / 'table1.png'} is not in SHA256SUMS"]


def test_pages_are_made_anew_of_unaltered_files_alone(published, tmp_path, monkeypatch):
    for name in ("README", "RUNNING"):
        page = tmp_path / f"{name}.md"
        page.write_text("\n".join(publish.markers("times")), encoding="utf-8")
        monkeypatch.setattr(publish, name, page)
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path)
    publish.write_pages({published: None})
    assert sums.check(published) == []
    (published / "report.html").write_text("of another day", encoding="utf-8")
    publish.refuse_altered([published])
    (published / "table1.csv").write_text("another", encoding="utf-8")
    with pytest.raises(UserError, match=r"table1\.csv is not in SHA256SUMS; restore it"):
        publish.refuse_altered([published])
