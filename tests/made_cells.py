"""Cells as if they had been trained, with records that are whole: for what reads records."""

import json

from manifold.files import sha256
from manifold.settings import CELL_FILES, fingerprint
from manifold.training.records import evaluation_path

TRAINING = ("deit-cait", "A", 2)
METHODS = ["none", "soft_kd", "manifold"]
SEEDS = [0, 1, 2, 3]


def top1_of(method, seed):
    return 70.0 + 3 * METHODS.index(method) + seed / 7 + (seed % 2) * METHODS.index(method) / 3


def train(experiment, seeds, methods=METHODS, processor="a processor"):
    """Put the cells of some seeds there, as if they had been trained, and the measured teacher."""
    weights = experiment.teacher_weights("deit-cait")
    path = evaluation_path(experiment, "deit-cait")
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = {"top1": 88.0, "parameters": 5000, "sha256": sha256(weights)}
    unknown = ("epochs", "images_seen", "recipe_name", "images_per_second", "duplicate_share")
    path.write_text(json.dumps(measured | dict.fromkeys(unknown), indent=2) + "\n", "utf-8")
    for method in methods:
        for seed in seeds:
            write_cell(experiment, method, seed, sha256(weights), processor)


def write_cell(experiment, method, seed, teacher, processor):
    key = (*TRAINING, method, seed)
    folder = experiment.cell_directory(*key)
    folder.mkdir(parents=True)
    term = "kl" if method != "none" else "cross_entropy"
    metrics = f"epoch,step,{term},gradient_share_{term},validation_top1\n1,100,0.5,1.0,70\n"
    (folder / "metrics.csv").write_text(metrics, encoding="utf-8")
    (folder / "student.safetensors").write_bytes(f"{method} {seed}".encode())
    identity = {**experiment.cell_identity(*key), "teacher_sha256": teacher}
    top1 = top1_of(method, seed)
    result = {"top1": top1, "best_top1": top1, "ema_top1": top1, "split": "test", "images": 360}
    run = {
        "fingerprint": fingerprint(identity),
        "configuration": identity,
        "pair": "deit-cait",
        "recipe_name": "A",
        "method": method,
        "epochs": 2,
        "seed": seed,
        "result": result,
        "resolved": {"parameters": 1000},
        "images_per_second": 100 / (seed + 3),
        "images_seen": 2432,
        "duplicate_share": 0.0,
        "wall_seconds": 1.0,
        "teacher_sha256": teacher,
        "cohort": METHODS,
        "environment": {
            "device": "cpu",
            "processor": processor,
            "threads": 1,
            "git_commit": "c0ffee",
            "packages": {"torch": "2"},
        },
        "files": {name: sha256(folder / name) for name in CELL_FILES[:2]},
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
