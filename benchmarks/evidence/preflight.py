"""Check everything that studies need, before any compute is spent on them.

``python -m benchmarks preflight --config scale=mini`` looks at every study that ``all`` makes; with
``--studies table1 transfer``, at these two. Nothing is trained.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.evidence.checked import CHECKED, identity_of, pairs_of, read_checked
from manifold.distiller import FrozenTeacher
from manifold.errors import Faults
from manifold.files import write_text
from manifold.models import count_parameters, create_model
from manifold.ranks import ALONE
from manifold.settings import TRAIN_TEACHER, Experiment, Model, fingerprint, merge, unknown
from manifold.training import command
from manifold.training.cells import Cell, student_model
from manifold.training.data import Splits, data_digest, load_splits, verify
from manifold.training.runs import (
    CPU,
    Setting,
    build_teacher,
    freeze,
    teacher_setting,
)
from manifold.training.trial import check_compiler, check_network, try_cohort

SPLITS = ("train", "validation", "test")

Trained = dict[str, tuple[int, list[str]]]  # recipe: the fewest epochs under it, the methods


def preflight(experiment: Experiment, names: list[str] | None = None) -> dict[str, Any]:
    """Check studies: their data, and one small step of everything that they train.

    Args:
        names: of the studies; by default those that ``all`` makes.

    Returns:
        What was found: split sizes, classes, a digest of the data, parameters, token layouts, and
        what the studies' own checks found.

    Raises:
        UserError: says all that would stop a run later.
    """
    names = default_studies(experiment) if names is None else names
    for name in names:
        if name not in experiment.studies:
            raise unknown("--studies", name, experiment.studies)
    studies = {name: experiment.studies[name] for name in names}
    pairs = list(dict.fromkeys(pair for study in studies.values() for pair in pairs_of(study)))
    found: dict[str, Any] = {"scale": experiment.scale, "name": experiment.name, "studies": {}}
    faults, splits = Faults(), None
    for name, study in studies.items():
        with faults.collected():
            found["studies"][name] = study.preflight()
    with faults.collected():
        check_compiler(experiment.machine)
    if pairs:
        with faults.collected():
            splits = load_splits(experiment.data)
            verify(splits, decode=experiment.data.verify)
    if splits is not None:
        found["splits"] = {split: len(getattr(splits, split)) for split in SPLITS}
        found["classes"] = splits.classes
        found["data_digest"] = data_digest(experiment, splits)
        found["pairs"] = {
            pair: _check_pair(experiment, pair, _trained(studies, pair), splits, faults)
            for pair in pairs
        }
    faults.raise_any()
    return {CHECKED: {name: identity_of(experiment, name) for name in names}, **found}


def default_studies(experiment: Experiment) -> list[str]:
    """Those that ``all`` makes; of a scale without any (a choice), every one."""
    evidence = [name for name, study in experiment.studies.items() if study.is_evidence]
    return evidence or list(experiment.studies)


def _trained(studies: dict[str, Any], pair: str) -> Trained:
    """What studies train with a pair."""
    trained: Trained = {}
    for study in studies.values():
        for (of, recipe, epochs), methods in study.students().items():
            if of == pair:
                fewest, known = trained.get(recipe, (epochs, []))
                others = [method for method in methods if method not in known]
                trained[recipe] = (min(epochs, fewest), [*known, *others])
    return trained


def _check_pair(
    experiment: Experiment, name: str, trained: Trained, splits: Splits, faults: Faults
) -> dict[str, Any]:
    """Try a pair's networks, its teacher's training, and every method under every recipe."""
    tried = experiment.replaced(machine=experiment.machine.replaced(compile=None))
    classes, found = len(splits.classes), {"methods": {}}
    cells: dict[str, list[Cell]] = {}
    for recipe, (_, methods) in trained.items():
        cells[recipe] = []
        for method in methods:
            with faults.collected():
                cells[recipe].append(_cell(experiment, name, method))
    teacher = experiment.pairs[name].teacher
    students = [cell.student for company in cells.values() for cell in company]
    if not _networks_run(experiment, name, [teacher.model, *students], classes, faults):
        return found
    if teacher.weights == TRAIN_TEACHER:
        setting, company = teacher_setting(tried, name, (ALONE, CPU))
        try_cohort(setting, company, None, splits, faults)
    frozen: FrozenTeacher | None = None
    for recipe, (epochs, _) in trained.items():
        setting = _setting(tried, name, recipe, epochs)
        if frozen is None:
            with faults.collected():
                frozen = _teacher(setting, classes)
                found["teacher_parameters"] = count_parameters(frozen.model)
        if frozen is not None:
            found["methods"] |= try_cohort(setting, cells[recipe], frozen, splits, faults)
    return found


def _cell(experiment: Experiment, pair: str, method: str) -> Cell:
    definition = experiment.method_definitions[method]
    student = student_model(experiment.pairs[pair], pair, method, definition)
    return Cell(method, definition, student, Path(), {})


def _networks_run(
    experiment: Experiment, pair: str, models: list[Model], classes: int, faults: Faults
) -> bool:
    """Whether every network can be created, and takes an image."""
    before, shape = len(faults.found), experiment.data.image_shape
    for model in {fingerprint(model): model for model in models}.values():
        with faults.collected():
            check_network(model, shape, classes, f"pair {pair!r}")
    return len(faults.found) == before


def _setting(experiment: Experiment, pair: str, recipe: str, epochs: int) -> Setting:
    return Setting(
        experiment=experiment,
        pair=experiment.pairs[pair],
        pair_name=pair,
        recipe=experiment.recipes[recipe],
        recipe_name=recipe,
        epochs=epochs,
        seed=experiment.seeds[0],
        teacher_weights=experiment.teacher_weights(pair),
        state=Path(),
    )


def _teacher(setting: Setting, classes: int) -> FrozenTeacher:
    if setting.teacher_weights.is_file():
        return build_teacher(setting, classes)
    # To be trained or fetched: the network itself is what can be checked.
    network = create_model(setting.pair.teacher.model, setting.image_shape, classes)
    return freeze(setting, network)


def main() -> None:
    parser = command.parser("benchmarks preflight", __doc__)
    parser.add_argument("--studies", nargs="+", help="default: those that `all` makes")
    parser.add_argument("--output", type=Path, help="preflight.json, to be written or added to")
    options = parser.parse_args()
    experiment = command.experiment(options)
    found = preflight(experiment, options.studies)
    if options.output:
        # What was found for other studies stays, as long as nothing that it was found of changed.
        known = read_checked(experiment, options.output)
        write_text(options.output, json.dumps(merge(known, found), indent=2) + "\n")
    print(_in_words(found), file=sys.stderr)


def _in_words(found: dict[str, Any]) -> str:
    words = f"checked, and nothing trained: {', '.join(found[CHECKED])}"
    if "splits" in found:
        sizes = ", ".join(f"{count:,} {split}" for split, count in found["splits"].items())
        words += f"; {sizes} images of {len(found['classes'])} classes"
    return words
