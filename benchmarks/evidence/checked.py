"""Which studies a run asks for, and whether the check before all compute has looked at them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manifold.errors import UserError
from manifold.settings import Experiment, fingerprint
from manifold.settings.data_files import files_digest
from manifold.settings.sources import job_hash, source_hash

CHECKED = "checked"  # the key of preflight.json that holds an identity of each study


def asked_studies(experiment: Experiment, outputs: Iterable[str]) -> list[str]:
    """The studies that a run makes, by the outputs of its jobs.

    Those that something of their own is made of; or else, where only students and teachers are
    asked for, the first study that needs one of them.
    """
    paths = set(map(Path, outputs))
    asked = [
        name
        for name, study in experiment.studies.items()
        if not paths.isdisjoint((*study.files(), *study.results()))
    ]
    if asked:
        return asked
    for name, study in experiment.studies.items():
        teachers = [experiment.teacher_directory(pair) for pair in pairs_of(study)]
        is_needed = not paths.isdisjoint(study.cells()) or any(
            path.is_relative_to(folder) for path in paths for folder in teachers
        )
        if is_needed:
            return [name]
    return []


def pairs_of(study: Any) -> list[str]:
    """The pairs whose students or teachers a study needs."""
    return list(dict.fromkeys([*(pair for pair, _, _ in study.students()), *study.teachers()]))


def identity_of(experiment: Experiment, name: str) -> str:
    """What the check of a study looks at, as a hash.

    Raises:
        UserError: a source of a method is missing, or no Python.
    """
    study = experiment.studies[name]
    trained = {method for methods in study.students().values() for method in methods}
    definitions = {method: experiment.method_definitions[method] for method in sorted(trained)}
    return fingerprint(
        {
            "data": experiment.data,
            "files": files_digest(experiment.data, experiment.results),
            "machine": experiment.machine,
            "recipes": experiment.recipes,
            "claims": experiment.claims,
            "evaluation_split": experiment.evaluation_split,
            "settings": study.settings,
            "students": [[*key, methods] for key, methods in study.students().items()],
            "pairs": {pair: experiment.pairs[pair] for pair in pairs_of(study)},
            "methods": definitions,
            "sources": [
                job_hash(type(study).__module__),
                *(source_hash(definition.distiller) for definition in definitions.values()),
            ],
        }
    )


def read_checked(experiment: Experiment, record: Path) -> dict[str, Any]:
    """What preflight.json says of the studies that stand as they were checked; of none, nothing."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        known = {
            name: identity
            for name, identity in found[CHECKED].items()
            if name in experiment.studies and identity == identity_of(experiment, name)
        }
    except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
        return {CHECKED: {}}
    return {**found, CHECKED: known} if known else {CHECKED: {}}


def unchecked(experiment: Experiment, names: Iterable[str], record: Path) -> list[str]:
    """Those of the studies that preflight.json does not speak of as they stand."""
    known = read_checked(experiment, record)[CHECKED]
    return [name for name in names if name not in known]
