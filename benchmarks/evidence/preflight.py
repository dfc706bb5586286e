"""Check everything that a run needs before any compute is spent on it.

``python -m benchmarks preflight --config scale=mini --output preflight.json``
"""

import json
import sys
from pathlib import Path

from benchmarks.evidence.checked import FINGERPRINT, identity_of
from manifold.distiller import Distiller
from manifold.errors import UserError
from manifold.files import write_text
from manifold.models import count_parameters, create_model
from manifold.settings import Experiment
from manifold.training import command
from manifold.training.cells import Cell, student_model
from manifold.training.cohort import Member
from manifold.training.data import data_digest, load_splits, verify
from manifold.training.runs import (
    Setting,
    build_distiller,
    build_teacher,
    freeze,
    steps_per_epoch,
)


def preflight(experiment: Experiment) -> dict:
    """Open the data, build every pair's teacher and every method around every student.

    Returns:
        What was found: split sizes, classes, a digest of the data, parameters, token layouts, and
        the methods of further tables that a pair cannot train.

    Raises:
        UserError: whatever would stop the run later.
    """
    splits = load_splits(experiment.data)
    verify(splits, decode=experiment.data.verify)
    for study in experiment.studies.values():
        study.preflight()
    for name, recipe in experiment.recipes.items():
        steps_per_epoch(len(splits.train), recipe, name)
    return {
        FINGERPRINT: identity_of(experiment),
        "scale": experiment.scale,
        "name": experiment.name,
        "splits": {name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        "classes": splits.classes,
        "data_digest": data_digest(experiment, splits),
        "pairs": {
            name: _check_pair(experiment, name, len(splits.classes)) for name in experiment.pairs
        },
    }


def _check_pair(experiment: Experiment, name: str, classes: int) -> dict:
    pair = experiment.pairs[name]
    table = experiment.table1
    setting = Setting(
        experiment=experiment,
        pair=pair,
        pair_name=name,
        recipe=experiment.recipes[table.recipe],
        recipe_name=table.recipe,
        epochs=table.epochs,
        seed=experiment.seeds[0],
        teacher_weights=experiment.teacher_weights(name),
        state=Path(),
    )
    if setting.teacher_weights.is_file():
        teacher = build_teacher(setting, classes)
    else:  # to be trained or fetched: the network itself is what can be checked
        teacher = freeze(setting, create_model(pair.teacher.model, setting.image_shape, classes))
    found = {"teacher_parameters": count_parameters(teacher.model), "methods": {}, "unusable": {}}

    def build(method: str) -> Distiller:
        definition = experiment.method_definitions[method]
        student = student_model(pair, name, method, definition)
        cell = Cell(method, definition, student, Path(), {})
        return build_distiller(setting, cell, teacher, classes)

    for method in experiment.methods_of(name):
        distiller = build(method)
        for recipe in experiment.recipes.values():
            Member(method, distiller, recipe, seed=0, epochs=setting.epochs, steps_per_epoch=1)
        found["methods"][method] = {
            "student_parameters": count_parameters(distiller.trainable_module),
            "auxiliary_parameters": count_parameters(distiller.auxiliary),
            "student_tokens": {k: str(v) for k, v in distiller.student_layouts.items()},
            "teacher_tokens": {k: str(v) for k, v in distiller.teacher_layouts.items()},
        }
    # Nobody may have asked for the other tables, so what they cannot train stops no run.
    for method in _further_methods(experiment, name):
        try:
            build(method)
        except UserError as error:
            found["unusable"][method] = str(error)
            print(f"only Table 1 can be made of pair {name!r}: {error}", file=sys.stderr)
    return found


def _further_methods(experiment: Experiment, pair: str) -> list[str]:
    """The methods that the studies beside Table 1 train with a pair."""
    trained = [
        method
        for (of, _, _), cohorts in experiment.trainings().items()
        for cohort in cohorts
        for method in cohort
        if of == pair and method not in experiment.methods_of(pair)
    ]
    return list(dict.fromkeys(trained))


def main() -> None:
    parser = command.parser("benchmarks preflight", __doc__)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    found = preflight(command.experiment(options))
    write_text(options.output, json.dumps(found, indent=2) + "\n")
