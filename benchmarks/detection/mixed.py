"""Runs of one detector that were not trained alike: of other machines and days, as records are."""

import json
from typing import Any

from benchmarks.evidence.runs import differing, in_words
from manifold.errors import UserError

OF_ONE_RUN = {  # keys of mmdet's settings
    *("ann_file", "data_prefix", "data_root", "outfile_prefix", "weights"),
    *("patch_embedding_alone", "experiment_name", "randomness"),
}


def refuse_mixed(detector: str, records: dict[str, dict[int, dict]]) -> None:
    """Refuse runs of one detector that were not trained alike.

    Raises:
        UserError: names the runs, and the keys that differ.
    """
    runs = {
        f"{method}, seed {seed}": {
            **_trained_with(record["configuration"]["settings"]),
            "processes": _processes(record),  # each has a batch of its own
        }
        for method, own in records.items()
        for seed, record in own.items()
    }
    texts = {name: json.dumps(settings, sort_keys=True) for name, settings in runs.items()}
    usual = max(reversed(texts.values()), key=list(texts.values()).count)
    odd = [name for name, text in texts.items() if text != usual]
    if odd:
        said = in_words(differing(json.loads(usual), runs[odd[0]]), "in the others", "in it")
        raise UserError(
            f"{detector}: {len(odd)} of {len(runs)} runs were trained with other settings than "
            f"the rest ({'; '.join(odd)}); of the first, {said}. Delete their folders or records, "
            "and run snakemake again"
        )


def _processes(record: dict) -> int:
    machine = record["environment"].get("machine", {})
    return machine.get("nodes", 1) * machine.get("processes", 1)


def _trained_with(settings: Any) -> Any:
    """Settings without what differs from run to run by intent, and without paths."""
    if isinstance(settings, dict):
        return {
            key: _trained_with(value) for key, value in settings.items() if key not in OF_ONE_RUN
        }
    return [_trained_with(value) for value in settings] if isinstance(settings, list) else settings
