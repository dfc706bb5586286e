"""Measuring any checkpoint: the recorded accuracy again, with the crop that it was trained for."""

import json
import time

import pytest
import timm
import torch
from safetensors.torch import load_file

from benchmarks import evaluate
from benchmarks.evaluate import evaluate_checkpoint
from benchmarks.evidence import publish, sums, times
from manifold.errors import UserError
from manifold.models import create_model
from manifold.settings import Model, read_yaml, read_yaml_text, resolve
from manifold.settings.resolve import experiment_text
from manifold.training import train

pytestmark = pytest.mark.slow

PAIR = "deit-cait"


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """A teacher of the smoke scale after two epochs, and its experiment."""
    made = resolve(
        {
            "scale": "smoke",
            "results": str(tmp_path_factory.mktemp("results")),
            "pairs": {PAIR: {"teacher": {"epochs": 2}}},
        }
    )
    train.train(*train.teacher_setting(made, PAIR))
    return made, made.teacher_directory(PAIR)


def teacher_model(experiment):
    return experiment.pairs[PAIR].teacher.model


def test_a_checkpoint_of_the_suite_has_its_recorded_accuracy(cell):
    experiment, folder = cell
    weights = str(folder / "student.safetensors")
    found = evaluate_checkpoint(experiment, teacher_model(experiment), weights)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert found["top1"] == record["result"]["top1"]
    assert found["sha256"] == record["files"]["student.safetensors"]
    assert found["evaluated_as"] == str(folder / "run.json")
    assert (found["images"], found["crop"]) == (360, 1.0)
    held_out = evaluate_checkpoint(
        experiment, teacher_model(experiment), weights, split="validation"
    )
    assert held_out["images"] == experiment.data.validation != 360


def test_a_foreign_checkpoint_is_seen_as_timm_says(tmp_path):
    colour = {"channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    experiment = resolve({"scale": "smoke", "data": colour})
    model = teacher_model(experiment)
    weights = tmp_path / "teacher.pth"
    torch.save({"model": create_model(model, (3, 8, 8), 10).state_dict()}, weights)
    found = evaluate_checkpoint(experiment, model, str(weights))
    known = timm.get_pretrained_cfg(teacher_model(experiment).name)
    assert found["evaluated_as"] == "timm's configuration"
    assert (found["crop"], found["interpolation"]) == (known.crop_pct, known.interpolation)
    assert found["mean"] == list(known.mean)


def test_foreign_weights_of_another_number_of_channels_are_refused(cell, tmp_path):
    experiment, folder = cell
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes((folder / "student.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"3 channels.*data.channels is 1"):
        evaluate_checkpoint(experiment, teacher_model(experiment), str(weights))


def test_a_given_crop_is_used(cell):
    experiment, folder = cell
    weights, model = str(folder / "student.safetensors"), teacher_model(experiment)
    whole, half = (evaluate_checkpoint(experiment, model, weights, crop) for crop in (1.0, 0.5))
    assert (half["crop"], half["evaluated_as"]) == (0.5, "--crop")
    assert whole["top1"] != half["top1"]


def test_timms_weights_are_measured_by_name(cell, monkeypatch):
    experiment, folder = cell
    weights = folder / "student.safetensors"

    def fetched(model):
        network = timm.create_model(
            model.name, in_chans=1, num_classes=10, img_size=8, **model.arguments
        )
        network.load_state_dict(load_file(weights))
        return network, {}

    monkeypatch.setattr(evaluate, "pretrained_network", fetched)
    monkeypatch.setattr(evaluate, "seen_by", lambda *_: (evaluate.TeacherInput(**SEEN), "a test"))
    found = evaluate_checkpoint(experiment, teacher_model(experiment), "pretrained")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert found["top1"] == record["result"]["top1"]


SEEN = {"mean": [0.305], "std": [0.376], "crop": 1.0, "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("cait_xxs24_22", "student.safetensors", "unknown timm model 'cait_xxs24_22'"),
        ("deit_tiny_patch16_224", "student.safetensors", "does not fit the network"),
        ("cait_xxs24_224", "nowhere.safetensors", "no such file"),
    ],
)
def test_a_wrong_name_or_file_is_named(cell, model, weights, words):
    experiment, folder = cell
    with pytest.raises(UserError, match=words):
        evaluate_checkpoint(
            experiment, Model(name=model, arguments={"patch_size": 2}), str(folder / weights)
        )


# ---- publishing ------------------------------------------------------------------------------


@pytest.fixture
def run(experiment, tmp_path, monkeypatch):
    """An experiment with a complete rehearsal and half a table, and a folder to publish to."""
    made = experiment(name="mine")
    made.directory.mkdir(parents=True)
    half = [path for path in files(made, "table1") if path.suffix != ".png"]
    for path in (*files(made, "rehearsal"), *half):
        path.write_text(path.name, encoding="utf-8")
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path / "published")
    return made


def files(experiment, study):
    return experiment.studies[study].files()


def test_complete_tables_are_published_and_no_half_ones(run, tmp_path):
    rehearsal = [path.name for path in files(run, "rehearsal")]
    copies = publish.publish(run)
    *tables, written = copies
    assert [path.name for path in tables] == rehearsal
    assert all(path.read_text(encoding="utf-8") == path.name for path in tables)
    assert read_yaml(written) == read_yaml_text(
        experiment_text(run.replaced(results="results")), ""
    )
    assert set((tmp_path / "published/mine").iterdir()) == set(copies)
    (run.directory / "table1.png").write_text("table1.png", encoding="utf-8")
    (run.directory / "preflight.json").write_text("preflight.json", encoding="utf-8")
    sums.write(tmp_path / "published/mine")
    (tmp_path / "published/mine/rehearsal.csv").write_text("altered", encoding="utf-8")
    with pytest.raises(UserError, match=r"rehearsal\.csv was altered: .*; restore it"):
        publish.publish(run)  # new sums would hide it
    (tmp_path / "published/mine/rehearsal.csv").write_text("rehearsal.csv", encoding="utf-8")
    names = {path.name for path in publish.publish(run)}
    table = {path.name for path in files(run, "table1")}
    assert names == {*table, *rehearsal, "preflight.json", "experiment.yaml"}


def test_of_a_run_on_ones_own_data_its_times_alone_may_be_kept(run, tmp_path):
    (run.directory / times.TIMES).write_text("times", encoding="utf-8")
    assert publish.publish(run, times_alone=True) == [tmp_path / "published/mine" / times.TIMES]
    assert times.TIMES in {path.name for path in publish.publish(run)}


def test_a_run_adds_what_it_took_and_the_fullest_of_a_target_is_shown(tmp_path):
    path = tmp_path / "mine" / times.TIMES
    for jobs, minutes in ((5, 7.0), (9, 12.3), (9, 12.0), (1, 2.0)):
        begun = time.time() - 60 * minutes
        times.add_run(path, times.Started(("reproduce_bench", "figures"), 2, jobs, 9, begun))
    runs = times.read_runs(path)
    assert [run["jobs"] for run in runs] == ["5", "9", "9", "1"]
    assert float(runs[1]["wall_seconds"]) == pytest.approx(60 * 12.3, abs=5)
    *_, row = times.times_table(tmp_path).splitlines()
    assert row.startswith("| `mine` | `reproduce_bench figures` | 9 of 9 | 2 | 12.0 | ")


@pytest.mark.parametrize("has_page", [True, False])
def test_the_published_page_is_made_anew_with_the_times_alone(has_page, tmp_path, monkeypatch):
    """Of one's own data nothing but the times was published, and there is no page."""
    folder, written = tmp_path / "mini", {}
    folder.mkdir()
    if has_page:
        (folder / "experiment.yaml").write_text("scale: mini\n", encoding="utf-8")
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path)
    monkeypatch.setattr(publish, "publish", lambda experiment, times_alone: [])
    monkeypatch.setattr(publish, "write_pages", written.update)
    monkeypatch.setattr("sys.argv", ["publish", "--times-alone", "--config", "scale=mini"])
    publish.main()
    assert list(written) == [folder] and (written[folder] is not None) == has_page


def test_a_run_without_a_table_is_refused_and_what_was_published_keeps_its_sums(run, tmp_path):
    publish.publish(run)
    sums.write(tmp_path / "published/mine")
    before = (tmp_path / "published/mine" / sums.SUMS).read_text(encoding="utf-8")
    (run.directory / "rehearsal.csv").unlink()
    with pytest.raises(UserError, match="no complete study"):
        publish.publish(run)
    assert (tmp_path / "published/mine" / sums.SUMS).read_text(encoding="utf-8") == before
