"""run.json and the saved weights: what they say is what ran, and what they hold can be used.

Also how files are written, and how weights that do not fit are refused.
"""

import errno
import hashlib
import json
import os
import pickle
import subprocess
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from manifold import settings
from manifold.errors import UserError, ending_the_process, full_disk, telling_of_a_full_disk
from manifold.files import HOST, csv_text, write_atomic, write_directory, write_text
from manifold.models import create_model, load_weights, save_state, save_weights
from manifold.settings import ROOT, Model, fingerprint
from manifold.settings.sources import source_hash
from manifold.training import description, records, runs, train
from manifold.training.data import data_digest, evaluation_loader, load_splits
from manifold.training.runs import CPU

PAIR, RECIPE, EPOCHS = "deit-cait", "A", 3
METHODS = ["none", "hard_kd_token", "manifold"]


def create_with_large_weights(*arguments):
    """So large that networks that have hardly been trained still tell images apart."""
    model = create_model(*arguments)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def resolve(tmp_path_factory):
    """Resolve a small run; the teacher's weights are drawn, which is all that a record needs."""
    folder = tmp_path_factory.mktemp("teacher")
    model = settings.resolve({"scale": "smoke"}).pairs[PAIR].teacher.model
    torch.manual_seed(0)
    save_weights(create_with_large_weights(model, (1, 8, 8), 10), folder / "teacher.safetensors")

    def make(**recipe):
        return settings.resolve(
            {
                "scale": "smoke",
                "results": str(tmp_path_factory.mktemp("results")),
                "data": {"validation": 1100},
                "pairs": {PAIR: {"teacher": {"weights": str(folder / "teacher.safetensors")}}},
                "recipes": {RECIPE: {"batch_size": 32, **recipe}},
            }
        )

    return make


@pytest.fixture(scope="module")
def trained(resolve):
    """The setting, the cells and the records of a small training."""
    recipe = {"ema_decay": 0.99, "optimizer": {"learning_rate": 0.01}}
    setting, cells = train.student_setting(resolve(**recipe), PAIR, RECIPE, EPOCHS, METHODS, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "create_model", create_with_large_weights)
        train.train(setting, cells)
    found = {
        cell.method: json.loads((cell.directory / "run.json").read_text(encoding="utf-8"))
        for cell in cells
    }
    return setting, {cell.method: cell for cell in cells}, found


@pytest.fixture
def live(resolve):
    """A training that has not begun, under a changed recipe."""

    def make(*methods, **recipe):
        setting, cells = train.student_setting(resolve(**recipe), PAIR, RECIPE, 4, list(methods), 0)
        return train.Training(setting, cells, load_splits(setting.experiment.data))

    return make


def described(training):
    """The first member's description, as it comes back from JSON."""
    made = description.describe_member(
        training.cohort.members[0], training.mixer, training.train_images.transform
    )
    return json.loads(json.dumps(made))


def group(key):
    return lambda found: [each[key] for each in found["optimizer"]["groups"]]


# ---- run.json --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_names_its_parts(trained):
    setting, cells, found = trained
    for method, record in found.items():
        assert record["method"] == method
        assert (record["pair"], record["recipe_name"]) == (PAIR, RECIPE)
        assert (record["epochs"], record["seed"]) == (EPOCHS, 1)
        assert record["cohort"] == METHODS
        assert record["splits"] == {"train": 337, "validation": 1100, "test": 360}
        assert record["data_digest"] == data_digest(
            setting.experiment, load_splits(setting.experiment.data)
        )
        assert record["images_seen"] == EPOCHS * 10 * 32
        assert record["duplicate_share"] == 0.0
        assert record["fingerprint"] == fingerprint(record["configuration"])
        assert record["source_hash"] == source_hash(cells[method].definition.distiller)
        assert record["teacher_sha256"] == digest(setting.teacher_weights)
        assert record["files"] == {
            name: digest(cells[method].directory / name)
            for name in ("student.safetensors", "metrics.csv")
        }


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_run_names_its_environment(trained):
    environment = trained[2]["manifold"]["environment"]
    for package in ("torch", "torchvision", "timm", "numpy", "pandas", "safetensors"):
        assert environment["packages"][package] == version(package)
    command = ["git", "rev-parse", "HEAD"]
    git = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert environment["git_commit"] == (git.stdout.strip() if git.returncode == 0 else None)
    assert environment["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads()


@pytest.mark.slow
def test_the_record_and_the_table_of_epochs_agree(trained):
    _, cells, found = trained
    for method, record in found.items():
        metrics = pd.read_csv(cells[method].directory / "metrics.csv")
        assert metrics["epoch"].tolist() == [1, 2, 3]
        assert metrics["step"].tolist() == [10, 20, 30]
        best = metrics["validation_top1"].idxmax()
        assert record["result"]["best_epoch"] == metrics["epoch"][best]
        rates = group("lr")(record["resolved"])
        assert rates == pytest.approx([metrics["learning_rate"].iloc[-1]] * 2, rel=1e-12)


@pytest.mark.slow
def test_the_method_is_described_with_its_weights_and_layers(trained):
    found = trained[2]["manifold"]["resolved"]
    assert found["distiller"] == "manifold.methods:Manifold"
    settings = found["distiller_settings"]
    assert settings["weights"] == {"intra": 4.0, "inter": 0.1, "random": 0.2}
    assert (settings["alpha"], settings["temperature"], settings["samples"]) == (0.9, 2.0, 192)
    assert settings["layers"] == {"student": [0, 1, 2, 3], "teacher": [0, 1, 3, 4]}
    assert set(found["token_layouts"]["teacher"].values()) == {"16 = 4×4"}
    assert found["student"] == "VisionTransformer"
    assert trained[2]["hard_kd_token"]["resolved"]["student"] == "VisionTransformerDistilled"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "read", "before", "after"),
    [
        ({"optimizer": {"weight_decay": 0.2}}, group("weight_decay"), [0.0, 0.05], [0.0, 0.2]),
        (
            {"optimizer": {"betas": [0.8, 0.9]}},
            group("betas"),
            [[0.9, 0.999]] * 2,
            [[0.8, 0.9]] * 2,
        ),
        ({"optimizer": {"epsilon": 1e-6}}, group("eps"), [1e-8] * 2, [1e-6] * 2),
        ({"optimizer": {"learning_rate": 0.01}}, group("initial_lr"), [0.003] * 2, [0.01] * 2),
        ({"optimizer": {"name": "lamb"}}, lambda r: r["optimizer"]["class"], "AdamW", "Lamb"),
        ({"optimizer": {"clip_norm": None}}, lambda r: r["clip_norm"], 1.0, None),
        ({"schedule": {"per": "epoch"}}, lambda r: r["scheduler"]["t_initial"], 40, 4),
        ({"schedule": {"warmup_epochs": 2}}, lambda r: r["scheduler"]["warmup_t"], 5, 20),
        ({"ema_decay": 0.5}, lambda r: r["ema_decay"], 0.9, 0.5),
        ({"drop_path": 0.0}, lambda r: len(r["drop_path"]), 6, 0),
        ({"mixing": {"mixup": 0.3}}, lambda r: r["mixing"]["mixup_alpha"], 0.8, 0.3),
        ({"mixing": {"probability": 0.9}}, lambda r: r["mixing"]["mix_prob"], 0.5, 0.9),
        ({"mixing": None}, lambda r: r["mixing"] is None, False, True),
        ({"label_smoothing": 0.0}, lambda r: r["label_smoothing"], 0.1, 0.0),
        (
            {"augmentation": {"random_erasing": 0.7}},
            lambda r: [s for s in r["augmentation"] if "Erasing" in s],
            ["RandomErasing(p=0.1, mode=pixel, count=(1, 1))"],
            ["RandomErasing(p=0.7, mode=pixel, count=(1, 1))"],
        ),
        (
            {"augmentation": {"scale": [0.5, 1.0]}},
            lambda r: "scale=(0.5, 1.0)" in r["augmentation"][0],
            False,
            True,
        ),
    ],
)
def test_a_change_of_the_recipe_shows_in_the_record(change, read, before, after, live):
    assert read(described(live("none"))) == before
    assert read(described(live("none", **change))) == after


def test_the_record_is_read_from_the_live_objects(live):
    training = live("manifold")
    (member,) = training.cohort.members
    student = member.distiller.get_trainable_module()
    member.optimizer.param_groups[1] |= {"lr": 0.125, "weight_decay": 0.25}
    member.distiller.get_trainable_module(ema=True).decay = 0.375
    member.clip_norm = 7.0
    member.distiller.weights["intra"] = 5.0
    student.blocks[-1].drop_path1.drop_prob = 0.625
    training.mixer.mixup.cutmix_alpha = 0.875
    training.mixer.smoothing = 0.75
    training.train_images.transform.transforms.pop()
    found = described(training)
    assert group("lr")(found) == [1e-6, 0.125]
    assert group("weight_decay")(found) == [0.0, 0.25]
    assert (found["ema_decay"], found["clip_norm"]) == (0.375, 7.0)
    assert found["distiller_settings"]["weights"]["intra"] == 5.0
    assert found["drop_path"][-2] == 0.625
    assert found["mixing"]["cutmix_alpha"] == 0.875
    assert found["label_smoothing"] == 0.75
    assert not any("RandomErasing" in step for step in found["augmentation"])


def test_parameters_are_counted(live):
    """FitNet's one projector maps the student's 24 channels to the teacher's 32, with a bias."""
    training = live("fitnet")
    found = described(training)
    student = training.cohort.members[0].distiller.get_trainable_module()
    assert found["parameters"] == sum(p.numel() for p in student.parameters())
    assert found["auxiliary_parameters"] == 24 * 32 + 32


@pytest.mark.parametrize("record", [{}, {"fingerprint": "f"}, {"fingerprint": "f", "files": []}])
def test_a_record_without_its_fields_is_of_no_complete_cell(record, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert not records.is_complete(tmp_path, ["run.json"], "run.json", "f")


@pytest.mark.parametrize("text", ['{"fingerprint": "a', "[]", "5", "null", "[" * 100_000])
def test_a_damaged_record_is_an_error_that_names_it(text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        records.read_run(path)
    assert str(path) in str(caught.value)
    assert "delete its folder" in str(caught.value)


# ---- the saved student -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_saved_student_scores_the_recorded_accuracy(method, trained):
    """Loaded with timm and safetensors alone."""
    setting, cells, found = trained
    configuration = found[method]["configuration"]
    model = configuration["pair"][configuration["student"]]
    size = configuration["data"]["image_size"]
    student = timm.create_model(
        model["name"], in_chans=1, num_classes=10, img_size=size, **model["arguments"]
    )
    weights = load_file(cells[method].directory / "student.safetensors")
    student.load_state_dict(weights, strict=True)
    student.eval()
    data = setting.experiment.data
    ((images, labels),) = evaluation_loader(load_splits(data).test, data, 1000, 0, device=CPU)
    with torch.no_grad():
        predictions = student(images).argmax(dim=1)
    result = found[method]["result"]
    assert (result["split"], result["images"]) == ("test", 360)
    assert result["top1"] == 100 * (predictions == labels).sum().item() / 360
    assert result["top1"] != result["ema_top1"]


# ---- writing ---------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")

    def fail(partial):
        partial.write_text("half", encoding="utf-8")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_text(encoding="utf-8") == "old"
    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "new.txt", fail)
    assert not (tmp_path / "new.txt").exists()
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["file.txt"]


def wrapped():
    """As torch does: its own error, while the disk's is being handled."""
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904


def no_space(kind=OSError, number=errno.ENOSPC):
    raise kind(number, "No space left on device")


@pytest.mark.parametrize(
    "fail",
    [
        no_space,
        wrapped,
        lambda: no_space(number=errno.EDQUOT),
        lambda: no_space(SafetensorError, "Error while serializing: I/O error"),
    ],
)
@pytest.mark.parametrize("write", [write_atomic, write_directory])
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(write, fail, tmp_path):
    def begin(partial):
        (partial / "half" if partial.is_dir() else partial).write_text("half", encoding="utf-8")
        fail()

    with pytest.raises(UserError, match=r"^\S+/new: No space left on the disk; free some.*stays$"):
        write(tmp_path / "new", begin)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_that_another_library_meets_ends_the_process_in_one_line():
    words = r"^error: No space left on the disk; free some"
    with pytest.raises(SystemExit, match=words), ending_the_process():
        wrapped()


def test_weights_and_states_that_do_not_fit_leave_the_old_ones(tiny_disk):
    write_text(tiny_disk / "state.pt", "old")
    network = torch.nn.Linear(200, 200)
    for name, write in (
        ("state.pt", lambda path: save_state({"weights": network.weight}, path)),
        ("student.safetensors", lambda path: save_weights(network, path)),
        ("metrics.csv", lambda path: write_text(path, "0.1\n" * 50_000)),
    ):
        with pytest.raises(UserError, match=rf"{name}: No space left on the disk"):
            write(tiny_disk / name)
    assert [path.name for path in tiny_disk.iterdir()] == ["state.pt"]
    assert (tiny_disk / "state.pt").read_text(encoding="utf-8") == "old"


def test_a_disk_without_room_for_a_log_is_full(tiny_disk):
    assert full_disk(tiny_disk / "nowhere") is None
    assert full_disk(ROOT) is None
    (tiny_disk / "one block").write_bytes(bytes(1))
    assert full_disk(tiny_disk).startswith(f"{tiny_disk}: No space left on the disk")


def test_a_library_that_meets_a_full_disk_is_said_with_its_folder(tmp_path):
    with (
        pytest.raises(UserError, match=rf"^{tmp_path}: No space left on the disk"),
        telling_of_a_full_disk(tmp_path),
    ):
        wrapped()
    with pytest.raises(KeyError), telling_of_a_full_disk(tmp_path):
        raise KeyError
    with pytest.raises(UserError, match=r"^which: No space"), telling_of_a_full_disk(tmp_path):
        raise UserError("which: No space left")


@pytest.mark.parametrize("kind", ["partial", "old"])
def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(kind, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = [f".a.txt.{HOST}-{process}.{kind}" for process in (dead.pid, os.getppid())]
    foreign = f".a.txt.elsewhere-{dead.pid}.{kind}"
    for name in (*names, foreign, f".b.txt.{HOST}-{dead.pid}.{kind}"):
        (tmp_path / name).touch()
    write_text(tmp_path / "a.txt", "new")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.txt", names[1], foreign, f".b.txt.{HOST}-{dead.pid}.{kind}"}


# ---- weights that do not fit -----------------------------------------------------------------

TEACHER = Model(
    name="cait_xxs24_224", arguments={"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
)


def make_teacher(classes=10, **arguments):
    model = Model(name=TEACHER.name, arguments={**TEACHER.arguments, **arguments})
    return create_model(model, (1, 8, 8), classes)


def write_missing(path):
    pass


def write_truncated(path):
    save_weights(make_teacher(), path)
    path.write_bytes(path.read_bytes()[:-100])


def write_empty(path):
    path.touch()


def write_deeper(path):
    save_weights(make_teacher(depth=3), path)


def write_wider(path):
    save_weights(make_teacher(embed_dim=64), path)


def write_other_kind(path):
    save_weights(create_model(Model(name="resnet18", arguments={}), (1, 8, 8), 10), path)


def write_without_a_tensor(path):
    weights = make_teacher().state_dict()
    del weights["pos_embed"]
    save_file(weights, path)


def write_seven_classes(path):
    save_weights(make_teacher(classes=7), path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_missing, ["no such file for", "correct its path"]),
        (write_truncated, ["is damaged", "fetch it again"]),
        (write_empty, ["is damaged", "fetch it again"]),
        (write_deeper, ["blocks.2.", "name and arguments"]),
        (write_wider, ["expected (", "name and arguments"]),
        (write_other_kind, ["(Cait)", "name and arguments"]),
        (write_without_a_tensor, ["pos_embed: expected (1, 16, 32), got nothing"]),
        (write_seven_classes, ["has 7 classes, the data set has 10", "'train' to train one"]),
    ],
)
def test_weights_that_do_not_fit_are_an_error_that_names_the_cure(write, words, tmp_path):
    path = tmp_path / "teacher.safetensors"
    write(path)
    model = make_teacher()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, path, "the teacher of pair 'p'")
    for part in (str(path), *words):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("library", [pickle, torch])
def test_code_in_a_weights_file_is_not_run(library, tmp_path):
    path, trace = tmp_path / "teacher.safetensors", tmp_path / "trace"
    save = {pickle: pickle.dump, torch: torch.save}[library]
    with path.open("wb") as file:
        save({"weight": Payload(trace)}, file)
    with path.open("rb") as file:
        if library is torch:
            torch.load(file, weights_only=False)
        else:
            pickle.load(file)
    assert trace.exists()  # the payload works
    trace.unlink()
    with pytest.raises(UserError) as caught:
        load_weights(make_teacher(), path, "the teacher")
    assert f"{path} is damaged" in str(caught.value)
    assert not trace.exists()


def test_saved_weights_load_bit_for_bit(tmp_path):
    source, target = make_teacher(), make_teacher()
    save_weights(source, tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors", "a network")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_metrics_are_written_as_pandas_writes_them():
    rows = [
        {"epoch": 1, "step": 10, "rate": 1e-05, "loss": 2.302585092994046, "top1": None},
        {"epoch": 2, "step": 20, "rate": 0.1 + 0.2, "loss": 100.0, "top1": None},
    ]
    assert csv_text(rows) == pd.DataFrame(rows).to_csv(index=False)
