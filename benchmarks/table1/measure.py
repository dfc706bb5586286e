"""The rows of Table 1, and the claims that this scale can judge."""

from dataclasses import dataclass

import pandas as pd

from benchmarks.evidence.cells import loss_terms
from benchmarks.evidence.claims import Claim, claims_of, judge_direction, judge_value
from benchmarks.evidence.statistics import (
    Interval,
    gains_over,
    holm,
    mean_interval,
    paired_difference,
)
from benchmarks.evidence.words import interval_columns
from benchmarks.table1 import TEACHER, Table1
from manifold.settings import Experiment
from manifold.training.records import read_teacher

LABEL_TERM = "cross_entropy"  # the term that every method that sees labels has


@dataclass
class Measured:
    """The measured table.

    Attributes:
        rows: one a method and one for the teacher, columns as in ``table1.csv``.
        claims: one a claim of claims.csv, with this scale's verdict; None where it judges none.
        seeds: one a method and seed.
    """

    rows: pd.DataFrame
    claims: pd.DataFrame | None
    seeds: pd.DataFrame
    caption: str


def measure(study: Table1) -> Measured:
    """Read the cells and compute the table."""
    experiment, table = study.experiment, study.table
    claims = claims_of(experiment, table.claim_ids())
    rows, seeds, top1, captions = [], [], {}, []
    for (pair, recipe, epochs), methods in study.students().items():
        records = study.collect(pair, recipe, epochs, methods)
        teacher = read_teacher(experiment, pair)
        top1[pair] = {
            method: {seed: record["result"]["top1"] for seed, record in runs.items()}
            for method, runs in records.items()
        }
        rows += _pair_rows(experiment, pair, records, top1[pair], claims)
        rows.append(_teacher_row(experiment, pair, teacher))
        seeds += _seed_rows(pair, records)
        captions.append(f"The teacher of {pair} reaches {teacher['top1']:.2f} % (one run).")
    return Measured(
        rows=pd.DataFrame(rows),
        claims=None
        if experiment.claims is None
        else pd.DataFrame([_claim_row(experiment, claim, top1) for claim in claims.values()]),
        seeds=pd.DataFrame(seeds),
        caption=_caption(experiment, records, captions),
    )


def _pair_rows(
    experiment: Experiment,
    pair: str,
    records: dict[str, dict[int, dict]],
    top1: dict[str, dict[int, float]],
    claims: dict[str, Claim],
) -> list[dict]:
    """One row a method of the pair; gains are over the pair's own baseline."""
    table = experiment.table1
    confidence = experiment.statistics.confidence
    gains = gains_over(table.baseline, top1, confidence)
    adjusted = holm({method: gain.p for method, gain in gains.items()})
    return [
        _method_row(
            experiment,
            pair,
            method,
            records[method],
            mean_interval(list(top1[method].values()), confidence),
            gains.get(method),
            adjusted.get(method),
            claims.get(table.claims.get(pair, {}).get(method, "")),
        )
        for method in records
    ]


def _method_row(
    experiment: Experiment,
    pair: str,
    method: str,
    runs: dict[int, dict],
    top1: Interval,
    gain: Interval | None,
    p_holm: float | None,
    claim: Claim | None,
) -> dict:
    results = pd.DataFrame([run["result"] for run in runs.values()])
    seed, first = next(iter(runs.items()))
    table = experiment.table1
    terms = loss_terms(experiment.cell_directory(pair, table.recipe, table.epochs, method, seed))
    return {
        "method": method,
        "n": top1.n,
        **interval_columns("top1", top1),
        **interval_columns("gain", gain),
        "p_holm": p_holm,
        "reported": claim and claim.printed,
        "evidence": claim and claim.evidence,
        "parameters": first["resolved"]["parameters"],
        "images_per_second": pd.Series([run["images_per_second"] for run in runs.values()]).mean(),
        "title": experiment.method_definitions[method].title,
        "pair": pair,
        "epochs": first["epochs"],
        "images_seen": first["images_seen"],
        "recipe": first["recipe_name"],
        "tokens": _token_type(experiment.method_definitions[method].student),
        "labels": LABEL_TERM in terms,
        "loss_terms": " + ".join(terms),
        "best_top1_mean": results["best_top1"].mean(),
        "ema_top1_mean": results["ema_top1"].mean(),
        "duplicate_share": first["duplicate_share"],
        "teacher_sha256": first["teacher_sha256"],
        "claim": claim and claim.id,
    }


def _teacher_row(experiment: Experiment, pair: str, measured: dict) -> dict:
    return {
        "method": TEACHER,
        "n": 1,
        "top1_mean": measured["top1"],
        "parameters": measured["parameters"],
        "images_per_second": measured["images_per_second"],
        "title": f"Teacher ({experiment.pairs[pair].teacher.model.name})",
        "pair": pair,
        "epochs": measured["epochs"],
        "images_seen": measured["images_seen"],
        "recipe": measured["recipe_name"],
        "tokens": "patch + class",
        "labels": True,
        "loss_terms": LABEL_TERM,
        "duplicate_share": measured["duplicate_share"],
        "teacher_sha256": measured["sha256"],
    }


def _token_type(student: str) -> str:
    return "patch + class" + (" + distillation" if student == "distilled_student" else "")


def _claim_row(
    experiment: Experiment, claim: Claim, top1: dict[str, dict[str, dict[int, float]]]
) -> dict:
    """Judge a claim: differences by their sign here, values only at the scale they are of.

    The pair is that of the claim's own networks, or else the table's first.
    """
    own = [pair for pair in experiment.table1.pairs if _is_of_pair(experiment, claim, pair)]
    runs = top1[own[0] if own else experiment.table1.pairs[0]]
    is_own_scale = bool(own) and _is_own_scale(experiment, claim)
    methods = claim.difference or (claim.method,)
    measured = None
    if all(method in runs for method in methods) and (claim.difference or is_own_scale):
        values, confidence = [runs[method] for method in methods], experiment.statistics.confidence
        measured = (
            paired_difference(*values, confidence)
            if claim.difference
            else mean_interval(list(values[0].values()), confidence)
        )
    return {
        "id": claim.id,
        "claim": f"{claim.method}, {claim.metric}, {claim.student}"
        + (f" ← {claim.teacher}" if claim.teacher else ""),
        "reported": claim.printed,
        "unit": claim.unit,
        "evidence": claim.evidence,
        "dataset": claim.dataset,
        **interval_columns("measured", measured),
        "n": measured.n if measured else 0,
        "scale": experiment.name,
        "direction_at_this_scale": judge_direction(float(claim.value), measured)
        if claim.difference and measured
        else "not run",
        "verdict_at_reported_scale": judge_value(claim, measured) if is_own_scale else "not run",
        "source": claim.source,
    }


def _is_of_pair(experiment: Experiment, claim: Claim, name: str) -> bool:
    """Whether a claim speaks of a pair's networks; one without a teacher, of any such student."""
    pair = experiment.pairs[name]
    students = {model.name for model in (pair.student, pair.distilled_student) if model}
    teacher = pair.teacher.model.name.partition(".")[0]
    return claim.student in students and claim.teacher in ("", teacher)


def _is_own_scale(experiment: Experiment, claim: Claim) -> bool:
    """Whether this run is under the claim's own data, budget and recipe, where it names them."""
    table = experiment.table1
    return (
        claim.dataset == experiment.reported_dataset
        and claim.metric == "top1"
        and claim.epochs in ("", str(table.epochs))
        and claim.recipe in ("", table.recipe)
    )


def _seed_rows(pair: str, records: dict[str, dict[int, dict]]) -> list[dict]:
    return [
        {
            "method": method,
            "seed": seed,
            **{key: run["result"][key] for key in ("top1", "best_top1", "ema_top1")},
            "images_per_second": run["images_per_second"],
            "wall_seconds": run["wall_seconds"],
            "cohort": " ".join(run["cohort"]),
            "git_commit": run["environment"]["git_commit"],
            "fingerprint": run["fingerprint"],
            "pair": pair,
        }
        for method, runs in records.items()
        for seed, run in runs.items()
    ]


def _caption(experiment: Experiment, records: dict, teachers: list[str]) -> str:
    table = experiment.table1
    run = next(iter(records[table.baseline].values()))
    result = run["result"]
    environment = run["environment"]
    return (
        f"Scale {experiment.name}: {experiment.description}. Top-1 (%) of the last epoch on "
        f"{result['images']:,} {result['split']} images; pair {', '.join(table.pairs)}, recipe "
        f"{table.recipe}, "
        f"{table.epochs} epochs = {run['images_seen']:,} images seen. "
        f"n = {len(experiment.seeds)} paired seeds, {100 * experiment.statistics.confidence:g} % "
        f"t intervals; gains are seed-by-seed differences to {table.baseline}, p after Holm. "
        f"{' '.join(teachers)} Images/s: training, the "
        f"method alone with its teacher's pass, on {environment['device']} "
        f"({environment['processor']}, {environment['threads']} thread(s))."
    )
