"""Measure a pair's teacher on the split that the students are measured on.

``python -m manifold measure-teacher --config scale=mini --pair deit-cait`` writes
``teachers/PAIR/evaluation.json`` below the results.
"""

import json

from manifold import ranks
from manifold.files import write_text
from manifold.models import count_parameters
from manifold.settings import Experiment
from manifold.settings.sources import job_hash
from manifold.settings.stale import tell_code
from manifold.training import command
from manifold.training.data import data_digest, load_splits
from manifold.training.evaluation import evaluate_split
from manifold.training.records import evaluation_path, read_run, record_of
from manifold.training.runs import build_teacher, student_setting

TRAINING = ("epochs", "images_seen", "recipe_name", "images_per_second", "duplicate_share")


def measure(experiment: Experiment, pair: str) -> dict:
    """Return the teacher's top-1 (%), its size and hash, and how it was trained, where known.

    A teacher without a classifier has no top-1; where no images are held out there is none on the
    validation split.

    Raises:
        UserError: the weights are missing, damaged, or of another network or class count.
    """
    table = experiment.table1
    processes = ranks.start(experiment.machine.device)
    setting, _ = student_setting(
        experiment, pair, table.recipe, table.epochs, [], experiment.seeds[0], processes
    )
    splits = load_splits(experiment.data)
    teacher = build_teacher(setting, len(splits.classes))
    images = getattr(splits, experiment.evaluation_split)
    seen_by = setting.pair.teacher.input

    def top1(images) -> float | None:
        if teacher.is_headless or not len(images):
            return None
        (found,) = evaluate_split(
            experiment, [teacher.model], images, "teacher", device=setting.device, seen_by=seen_by
        )
        return found

    record = record_of(experiment.teacher_weights(pair))
    run = read_run(record) if record.is_file() else {}
    return {
        "top1": top1(images),
        "validation_top1": top1(splits.validation),
        "split": experiment.evaluation_split,
        "images": len(images),
        "parameters": count_parameters(teacher.model),
        "sha256": teacher.sha256,
        "data_digest": data_digest(experiment, splits),
        "crop": (seen_by or experiment.data).crop,
        **{key: run.get(key) for key in TRAINING},
    }


def main() -> None:
    parser = command.parser("manifold measure-teacher", __doc__)
    parser.add_argument("--pair", help="default: table1's")
    options = parser.parse_args()
    experiment = command.experiment(options)
    pair = options.pair or experiment.table1.pairs[0]
    made_by, path = job_hash("manifold.training.teacher"), evaluation_path(experiment, pair)
    measured = measure(experiment, pair)
    write_text(path, json.dumps(measured, indent=2) + "\n")
    tell_code([path], made_by)
