"""Records of cells: written, taken in, refused; a table is the same from them as from cells."""

import hashlib
import json
import re
import shutil

import pandas as pd
import pytest
from made_cells import METHODS, SEEDS, TRAINING, train

from benchmarks.evidence.merge import merge
from benchmarks.evidence.records import write_records
from benchmarks.evidence.students import Verified
from benchmarks.evidence.verify import verify_tables
from manifold.errors import UserError
from manifold.settings import made_by
from manifold.settings.recorded import RECORDS, packed, record_path, recorded

FORMATS = ("md", "csv", "tex", "png", "pdf", "svg")


def tables(experiment):
    experiment.studies["table1"].write()
    return {name: (experiment.directory / f"table1.{name}").read_bytes() for name in FORMATS}


@pytest.fixture
def halves(make, tmp_path):
    """Two halves of a study, as records."""
    folders = []
    for name, seeds in (("first", SEEDS[:2]), ("second", SEEDS[2:])):
        half = make(name)
        train(half, seeds)
        folders.append(tmp_path / f"{name}-records")
        assert len(write_records(half, folders[-1])) == len(METHODS) * 2 + 1
    return folders


@pytest.mark.slow
def test_two_halves_are_the_whole_byte_for_byte_without_weights_or_data(make, halves):
    whole, merged = make("whole"), make("merged")
    train(whole, SEEDS)
    done = merge(merged, halves)
    assert (done.taken, done.known, done.foreign) == (12, 0, 0)
    assert not (merged.directory / "cells").exists()
    assert tables(merged) == tables(whole)


@pytest.mark.slow
def test_a_record_beside_cells_is_the_same_table(make, halves):
    whole, merged = make("whole"), make("merged")
    train(whole, SEEDS)
    train(merged, SEEDS[:2])
    assert merge(merged, halves).words().startswith("6 record(s) taken in, 6 already here")
    assert merge(merged, halves).words().startswith("0 record(s) taken in, 12 already here")
    assert tables(merged) == tables(whole)


def test_records_of_records_are_the_same(make, halves, tmp_path):
    merged, again = make("merged"), tmp_path / "again"
    merge(merged, halves)
    write_records(merged, again)
    before = {p.relative_to(half): p.read_bytes() for half in halves for p in half.rglob("*.json")}
    assert before == {p.relative_to(again): p.read_bytes() for p in again.rglob("*.json")}


def test_what_is_recorded_is_not_trained_and_the_rest_is(make, halves):
    merged = make("merged")
    folder = halves[0]
    for seed in (0, 1):  # of seed 1 one method is missing
        for method in METHODS:
            if (method, seed) == ("none", 1):
                record_path(folder, (*TRAINING, method, seed)).unlink()
    merge(merged, [folder])
    jobs = merged.jobs(TRAINING, METHODS)
    by_seed = {
        seed: [methods for methods, seeds in jobs if re.fullmatch(seeds, str(seed))]
        for seed in SEEDS
    }
    assert by_seed[0] == [METHODS]  # for whoever needs the weights
    assert by_seed[1] == [["none"], ["soft_kd", "manifold"]]
    assert by_seed[2] == by_seed[3] == [METHODS]
    cells = merged.studies["table1"].cells()
    records = [path for path in cells if path.suffix == ".json" and RECORDS in path.parts]
    assert len(records) == 5 and all(path.is_file() for path in records)
    missing = [path for path in cells if path not in records]
    assert len(missing) == 3 * (12 - 5) and not any(path.exists() for path in missing)


def test_a_cell_that_is_trained_stands_before_its_record(make, halves):
    merged = make("merged")
    merge(merged, halves)
    key = (*TRAINING, "none", 0)
    assert recorded(merged, key).run["seed"] == 0
    train(merged, [0], ["none"])
    assert recorded(merged, key) is None
    assert merged.cell_directory(*key) / "run.json" in merged.studies["table1"].cells()


def test_a_record_is_refused_where_another_run_stands_in_its_place(make, halves):
    merged = make("merged")
    train(merged, [0], ["none"])
    run = merged.cell_directory(*TRAINING, "none", 0) / "run.json"
    record = json.loads(run.read_text(encoding="utf-8"))
    run.write_text(json.dumps(record | {"fingerprint": "of another"}), encoding="utf-8")
    words = f"cannot stand for {run.parent}, where a run of another configuration.*; delete that"
    with pytest.raises(UserError, match=words):
        merge(merged, halves)
    assert not (merged.directory / RECORDS).exists()


def test_a_record_of_code_that_is_not_to_be_kept_has_its_cell_trained(make, halves, monkeypatch):
    """A record is what its cell would be: of a user's method it follows the user's file."""
    merged = make("merged")
    merge(merged, halves)
    key = (*TRAINING, "none", 0)
    record = record_path(merged.directory / RECORDS, key)
    for now, expected in (
        ("0" * 64, {"keep": True, "retrain": False}),
        (f"{'0' * 64}+{'1' * 64}", {"keep": False, "retrain": False}),
    ):
        monkeypatch.setattr(made_by, "source_hash", lambda *asked, now=now: now)
        for stale, is_kept in expected.items():
            changed = merged.replaced(stale=stale)
            assert (recorded(changed, key) is not None) is is_kept
            assert (record in changed.studies["table1"].cells()) is is_kept
            if not is_kept:
                with pytest.raises(UserError, match="made by other code of method 'none'"):
                    merge(changed, halves)
    monkeypatch.undo()
    assert recorded(merged.replaced(stale="retrain"), key) is None  # of a made-up hash
    assert recorded(merged, key) is not None


@pytest.mark.parametrize(
    "changes",
    [
        *({"run": {}}, {"run": [1]}, {"run": None}, {"metrics": None}),
        *({"run": {"files": {"metrics.csv": "0"}}}, {"run": {"files": [], "method": "none"}}),
    ],
)
def test_a_record_of_no_run_is_named(changes, make, halves):
    merged = make("merged")
    key = (*TRAINING, "none", 0)
    content = json.loads(record_path(halves[0], key).read_text("utf-8"))
    content.pop("sha256")
    path = record_path(merged.directory / RECORDS, key)
    path.parent.mkdir(parents=True)
    path.write_text(packed(content | changes), "utf-8")
    with pytest.raises(UserError, match=re.escape(str(path))):
        recorded(merged, key)


def altered(path):
    path.write_text(path.read_text("utf-8").replace('"top1": 70.', '"top1": 79.'), "utf-8")


def cut(path):
    path.write_text(path.read_text("utf-8")[:100], "utf-8")


def of_another_kind(path):
    path.write_text(packed({"some": "thing"}), "utf-8")


def with_other_metrics(path):
    content = json.loads(path.read_text("utf-8"))
    del content["sha256"]
    content["metrics"] += "2,0.1,1.0,99\n"
    path.write_text(packed(content), "utf-8")


def with_another_result(path):
    content = json.loads(path.read_text("utf-8"))
    del content["sha256"]
    content["run"]["result"]["top1"] = 99.0
    path.write_text(packed(content), "utf-8")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (altered, "was altered since it was written"),
        (cut, "is no record"),
        (of_another_kind, "is no record: it holds some"),
        (with_other_metrics, "holds the metrics of another run"),
    ],
)
def test_a_record_that_is_harmed_is_refused_by_name_and_none_is_taken(make, halves, harm, words):
    path = record_path(halves[1], (*TRAINING, "none", 2))
    harm(path)
    merged = make("merged")
    with pytest.raises(UserError, match=f"{re.escape(str(path))} {words}"):
        merge(merged, halves)
    assert not (merged.directory / RECORDS).exists()


def test_a_record_of_another_identity_is_refused_with_what_differs(make, halves):
    other = make("merged", recipes={"A": {"optimizer": {"learning_rate": 0.5}}})
    with pytest.raises(UserError) as error:
        merge(other, halves)
    message = str(error.value)
    assert "recipe.optimizer.learning_rate is 0." in message and "and 0.5 here" in message
    assert f"{halves[0]}" in message and "things are wrong" in message


def test_another_teacher_is_refused_and_a_missing_one_named(make, halves, tmp_path):
    merged = make("merged")
    merged.teacher_weights("deit-cait").write_bytes(b"others")
    with pytest.raises(UserError, match=r"teacher_sha256 is .* there and .* here"):
        merge(merged, halves)
    merged.teacher_weights("deit-cait").unlink()
    with pytest.raises(UserError, match=r"needs the teacher .*, which is not here"):
        merge(merged, halves)


def test_another_result_of_the_same_cell_is_refused(make, halves):
    merged = make("merged")
    train(merged, [0])
    path = record_path(halves[0], (*TRAINING, "soft_kd", 0))
    with_another_result(path)
    with pytest.raises(UserError, match=r"A/2/soft_kd/0 is here with top-1 73.00, and this.*99.00"):
        merge(merged, halves)


def test_what_no_study_needs_is_counted_and_left(make, halves):
    merged = make("merged", seeds=[0, 1], methods=["none", "soft_kd"])
    assert merge(merged, halves).words() == (
        "4 record(s) taken in, 0 already here, 8 of what no study of this configuration needs"
    )


@pytest.mark.slow
def test_runs_of_two_machines_are_told_of(make, tmp_path):
    whole, other = make("whole"), make("other")
    train(whole, SEEDS[:3])
    assert b"Merged" not in tables(make("whole", seeds=SEEDS[:3]))["md"]
    train(other, SEEDS[3:], processor="another processor")
    write_records(other, tmp_path / "records")
    merge(whole, [tmp_path / "records"])
    said = tables(whole)["md"].decode()
    assert "of the 12 runs, 9 on cpu (a processor, torch 2), 3 on cpu (another pro" in said
    assert "none, soft_kd, manifold (deit-cait, recipe A, 2 epochs, seed 3)" in said


def test_folders_and_experiments_without_records_are_named(make, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder of records"):
        merge(make("merged"), [tmp_path / "nowhere"])
    with pytest.raises(UserError, match="holds no finished cell of this configuration"):
        write_records(make("merged"), tmp_path / "records")


def test_the_metrics_of_a_record_are_the_bytes_of_the_file(make, halves):
    merged = make("merged")
    merge(merged, halves)
    found = recorded(merged, (*TRAINING, "none", 0))
    digest = hashlib.sha256(found.metrics.encode()).hexdigest()
    assert digest == found.run["files"]["metrics.csv"]


# ---- computed anew ---------------------------------------------------------------------------


@pytest.fixture
def published(make, tmp_path):
    """A folder as it is published: tables, and the records that they are made from."""
    whole = make("whole")
    train(whole, SEEDS)
    folder = tmp_path / "published"
    write_records(whole, folder / RECORDS)
    for name, text in whole.studies["table1"].document().texts("table1").items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def verified(make, folder):
    found = Verified()
    verify_tables(make("elsewhere"), folder, found)
    return found


def test_published_tables_are_computed_anew_from_their_records(make, published):
    found = verified(make, published)
    assert found.other == []
    names = ("table1.csv", "table1_claims.csv", "table1_seeds.csv", "table1.md", "table1.tex")
    assert sorted(found.same) == sorted(f"{published / n} from its records" for n in names)


def test_a_line_that_ends_otherwise_is_found(make, published):
    path = published / "table1.md"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert verified(make, published).other == [f"{path}: has other ends of lines"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1.md", "table1.tex"])
def test_an_altered_text_is_found_with_its_first_line(make, published, name):
    path = published / name
    before, found, after = path.read_text(encoding="utf-8").partition("70.")
    path.write_text(f"{before}90.{after}", encoding="utf-8")
    (other,) = verified(make, published).other
    line = before.count("\n") + 1
    assert found and other.startswith(f"{path}: line {line} has ") and "90." in other
    path.unlink()
    assert verified(make, published).other == [f"{path}: is missing"]


@pytest.mark.slow
def test_an_altered_table_is_found_with_its_first_cell(make, published):
    path = published / "table1.csv"
    rows = pd.read_csv(path, dtype=str)
    rows.loc[1, "top1_mean"] = "99.9"
    path.write_text(rows.to_csv(index=False), encoding="utf-8")
    (other,) = verified(make, published).other
    assert "1 cell(s); the first, top1_mean of row 2, is 99.9 there and 7" in other
    path.write_text(rows.iloc[:2].to_csv(index=False), encoding="utf-8")
    assert "2 rows where 4 were computed anew" in verified(make, published).other[0]


def test_an_altered_record_is_found(make, published):
    altered(record_path(published / RECORDS, (*TRAINING, "none", 2)))
    (other,) = verified(make, published).other
    assert "was altered since it was written" in other


def test_a_table_without_all_its_records_is_a_fault_that_names_them(make, published):
    paths = [record_path(published / RECORDS, (*TRAINING, "none", seed)) for seed in (2, 3)]
    for path in paths:
        path.unlink()
    found = verified(make, published)
    assert found.same == [] and found.other == [
        f"{path} is missing, of table1.csv" for path in paths
    ]


def test_a_method_without_any_record_is_a_fault_too(make, published):
    paths = [record_path(published / RECORDS, (*TRAINING, "none", seed)) for seed in SEEDS]
    for path in paths:
        path.unlink()
    assert verified(make, published).other == [
        f"{path} is missing, of table1.csv" for path in paths
    ]


def test_a_table_of_an_earlier_day_is_not_looked_at(make, published):
    """None of its runs is among the records, which another study has left there."""
    for method in METHODS[1:]:
        shutil.rmtree(record_path(published / RECORDS, (*TRAINING, method, 0)).parent)
    runs = pd.read_csv(published / "table1_seeds.csv", dtype=str)
    runs.assign(fingerprint="older").to_csv(published / "table1_seeds.csv", index=False)
    found = verified(make, published)
    assert found.other == found.same == []
    said = "table1: it is made of runs without a record here; the first is deit-cait/A/2/soft_kd/0"
    assert found.unknown == [said]


def test_swapped_and_renamed_records_are_named(make, published, tmp_path):
    first, second = (record_path(published / RECORDS, (*TRAINING, "none", seed)) for seed in (2, 3))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    (other,) = verified(make, published).other
    assert f"{first} is of another run: deit-cait/A/2/none/3" in other
    assert f"{second} is of another run: deit-cait/A/2/none/2" in other
    with pytest.raises(UserError, match="is of another run"):
        merge(make("merged"), [published / RECORDS])
    second.unlink()
    first.rename(first.with_name("seed-9.json"))
    (other,) = verified(make, published).other
    assert other.endswith("seed-9.json is of another run: deit-cait/A/2/none/3")


def test_the_record_of_another_pairs_teacher_is_named(make, halves):
    path = halves[0] / "teachers/deit-cait.json"
    path.rename(path.with_name("other.json"))
    with pytest.raises(
        UserError, match=r"other\.json is of the teacher of another pair: deit-cait"
    ):
        merge(make("merged"), halves)
