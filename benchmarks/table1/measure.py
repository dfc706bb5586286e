"""The rows of Table 1, and the claims that this scale can judge."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.evidence.between_methods import contrasts
from benchmarks.evidence.blocks import Blocks, blocks
from benchmarks.evidence.captions import detectable_in_words, least_difference
from benchmarks.evidence.cells import gradient_shares, loss_terms, metrics_of, own_share
from benchmarks.evidence.claims import JUDGED, Claim, Side, is_of_pair
from benchmarks.evidence.gains import gain_columns
from benchmarks.evidence.judge import NOT_COMPARABLE, NOT_RUN, direction, judge
from benchmarks.evidence.registered import Primary
from benchmarks.evidence.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    seeds_to_detect,
    share_ahead,
    spread_of,
)
from benchmarks.evidence.words import MISSING, in_epochs, interval_columns
from benchmarks.table1 import TEACHER, Table1
from manifold.settings import Experiment
from manifold.training.records import read_teacher, teacher_in_words

LABEL_TERM = "cross_entropy"  # the term that every method that sees labels has
WITH_CLASS_TOKEN = ("cait", "deit", "vit")  # what timm's names of such networks begin with
TOKENS = {  # of the student that a method trains, where it has a class token
    "student": "patch + class",
    "distilled_student": "patch + class + distillation",
    "lifted_student": "patch, lifted",
    "widened_student": "patch + class, widened",
}


@dataclass
class Measured:
    """The measured table.

    Attributes:
        rows: one a method and one for the teacher, columns as in ``table1.csv``.
        claims: one a claim of claims.csv, with this scale's verdict; None where it judges none.
        seeds: one a method and seed.
        contrasts: one a difference between two methods.
        primary: the test that decides.
    """

    rows: pd.DataFrame
    claims: pd.DataFrame | None
    seeds: pd.DataFrame
    contrasts: pd.DataFrame
    primary: Primary
    caption: str


def measure(study: Table1) -> Measured:
    """Read the cells and compute the table."""
    experiment, table = study.experiment, study.table
    claims = study.claims
    rows, seeds, top1, captions, pooled, places = [], [], {}, [], {}, set()
    for (pair, recipe, epochs), methods in study.students().items():
        records = study.collect(pair, recipe, epochs, methods)
        teacher = read_teacher(experiment, pair)
        top1[pair] = {
            method: {seed: record["result"]["top1"] for seed, record in runs.items()}
            for method, runs in records.items()
        }
        if len(methods) > 1:
            pooled[pair] = blocks(
                top1[pair],
                table.baseline,
                experiment.statistics.confidence,
                experiment.statistics.spread_level,
            )
        places |= _places(records)
        rows += _pair_rows(study, pair, records, top1[pair], pooled.get(pair), claims)
        rows.append(_teacher_row(experiment, pair, teacher))
        seeds += _seed_rows(pair, records)
        captions.append(teacher_in_words(teacher, f" of {pair}"))
    return Measured(
        rows=pd.DataFrame(rows),
        claims=None
        if not study.judges
        else pd.DataFrame([_claim_row(study, claim, top1) for claim in claims.values()]),
        seeds=pd.DataFrame(seeds),
        contrasts=contrasts(
            table.contrasts,
            {(pair,): values for pair, values in top1.items()},
            ("pair",),
            experiment.statistics,
        ),
        primary=study.primary,
        caption=_caption(study, records, places, captions, rows, pooled),
    )


def _pair_rows(
    study: Table1,
    pair: str,
    records: dict[str, dict[int, dict]],
    top1: dict[str, dict[int, float]],
    pooled: Blocks | None,
    claims: dict[str, Claim],
) -> list[dict]:
    """One row a method of the pair; gains are over the pair's own baseline."""
    table, beside = study.table, study.beside.get(pair, {})
    confidence, own = study.experiment.statistics.confidence, top1[table.baseline]
    columns = gain_columns("top1", top1, table.baseline, confidence)
    return [
        _method_row(
            study,
            pair,
            method,
            records[method],
            columns[method],
            pooled,
            None
            if method == table.baseline
            else least_difference(top1[method], own, study.experiment.statistics),
            claims.get(beside.get(method, "")),
        )
        | {"runs_ahead": None if method == table.baseline else share_ahead(top1[method], own)}
        for method in records
    ]


def _method_row(
    study: Table1,
    pair: str,
    method: str,
    runs: dict[int, dict],
    columns: dict[str, Any],
    pooled: Blocks | None,
    detectable: float | None,
    claim: Claim | None,
) -> dict:
    results = pd.DataFrame([run["result"] for run in runs.values()])
    first = next(iter(runs.values()))
    experiment, table = study.experiment, study.table
    metrics = [
        metrics_of(experiment, (pair, table.recipe, table.epochs, method, seed)) for seed in runs
    ]
    terms, shares = loss_terms(metrics[0]), gradient_shares(metrics)
    in_blocks = pooled and pooled.gains.get(method)
    return {
        "method": method,
        **columns,
        "reported": claim and claim.printed,
        "evidence": claim and claim.evidence,
        "parameters": first["resolved"]["parameters"],
        "images_per_second": pd.Series([run["images_per_second"] for run in runs.values()]).mean(),
        "title": experiment.method_definitions[method].title,
        "pair": pair,
        "epochs": first["epochs"],
        "images_seen": first["images_seen"],
        "recipe": first["recipe_name"],
        "tokens": tokens_of(experiment, pair, method),
        "labels": LABEL_TERM in terms,
        "loss_terms": " + ".join(terms),
        "best_top1_mean": results["best_top1"].mean(),
        "ema_top1_mean": results["ema_top1"].mean(),
        "duplicate_share": first["duplicate_share"],
        "teacher_sha256": first["teacher_sha256"],
        "claim": claim and claim.id,
        "reported_recipe": claim and claim.recipe,
        "gain_detectable": detectable,
        **interval_columns("pooled_gain", in_blocks),
        "p_dunnett": in_blocks and in_blocks.p,
        "spreads_otherwise": pooled is not None and method in pooled.left_out,
        "gradient_shares": " ".join(f"{term}={share:.4g}" for term, share in shares.items()),
        "own_gradient_share": own_share(shares),
        "decided": _decided(columns, in_blocks, study.primary, experiment.statistics.confidence),
    }


def tokens_of(experiment: Experiment, pair: str, method: str | None) -> str:
    """Which tokens the student of a method has, or a pair's teacher; a dash of a network of none.

    A hierarchical transformer has no class token, and a convolutional teacher no token at all.
    """
    networks = experiment.pairs[pair]
    kind = "student" if method is None else experiment.method_definitions[method].student
    name = networks.teacher.model.name if method is None else networks.student.name
    if name.startswith(WITH_CLASS_TOKEN):
        return TOKENS[kind]
    return "patch" if name.startswith("swin") else MISSING


def _decided(
    columns: dict[str, Any], in_blocks: Interval | None, primary: Primary, confidence: float
) -> str | None:
    """Who is ahead, by the test that decides; a method that left the block model by its pairs."""
    if columns["p_holm"] is None:  # the baseline
        return None
    p = in_blocks.p if primary == "blocks" and in_blocks else columns["p_holm"]
    if p >= 1 - confidence:
        return "undecided"
    return "ahead" if columns["gain_mean"] > 0 else "behind"


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
        "tokens": tokens_of(experiment, pair, None),
        "labels": True,
        "loss_terms": LABEL_TERM,
        "duplicate_share": measured["duplicate_share"],
        "teacher_sha256": measured["sha256"],
    }


def _claim_row(study: Table1, claim: Claim, top1: dict[str, dict[str, dict[int, float]]]) -> dict:
    """Hold a claim to this run, where it is of the claim's own kind.

    Other runs say which of the two methods of a difference is ahead here, where both are of one
    pair and of this table's recipe, and no more.
    """
    experiment = study.experiment
    confidence = experiment.statistics.confidence
    own = [_runs_of(study, claim, side, top1) for side in claim.sides]
    verdict, measured, predicted, here, seeds = NOT_RUN, None, None, None, None
    if all(own):
        verdict, predicted = judge(claim, own, confidence, experiment.statistics.margin)
        measured = (
            paired_difference(*own, confidence)
            if len(own) == 2
            else mean_interval(list(own[0].values()), confidence)
        )
    elif claim.dataset != experiment.reported_dataset:
        verdict = NOT_COMPARABLE
    first_pair = top1[study.table.pairs[0]]
    if not all(own) and _is_of_one_kind(study, claim, first_pair):
        own = [first_pair[side.method] for side in claim.sides]
        measured = paired_difference(*own, confidence)
    if measured and len(claim.sides) == 2:
        here = direction(*(side.method for side in claim.sides), measured)
        if float(claim.value):
            spread, power = spread_of(*own), experiment.statistics.power
            seeds = seeds_to_detect(float(claim.value), spread, confidence, power)
    low, high = predicted or (None, None)
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
        "direction_here": here,
        "predicted_low": low,
        "predicted_high": high,
        "seeds_to_tell": seeds,
        "verdict": verdict,
        "source": claim.source,
    }


def _runs_of(
    study: Table1, claim: Claim, side: Side, top1: dict[str, dict[str, dict[int, float]]]
) -> dict[int, float] | None:
    """This run's values by seed under all that a side of a claim names, or nothing.

    What a claim leaves blank is unknown, and so nothing that a run could be like; but a method
    without a teacher is of any pair with its student.
    """
    experiment, table = study.experiment, study.table
    is_own = (
        claim.dataset == experiment.reported_dataset
        and claim.metric == JUDGED
        and claim.epochs == str(table.epochs)
        and side.recipe == table.recipe
    )
    for name in table.pairs if is_own else ():
        if side.method in top1[name] and is_of_pair(experiment, side, name):
            return top1[name][side.method]
    return None


def _is_of_one_kind(study: Table1, claim: Claim, runs: dict) -> bool:
    """Whether a difference is of two methods of this run, with one teacher and its recipe."""
    if len(claim.sides) != 2 or claim.metric != JUDGED or " of " in claim.epochs:
        return False
    first, second = claim.sides
    return (
        first.method in runs
        and second.method in runs
        and first.recipe == second.recipe == study.table.recipe
        and first.teacher == second.teacher
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


def _on_blocks(pooled: dict[str, Blocks]) -> str:
    """What the block model rests on."""
    if not pooled:
        return ""
    found = list(pooled.values())
    spreads = ", ".join(f"{each.residual:.2f}" for each in found)
    degrees = ", ".join(str(each.degrees) for each in found)
    return (
        f"Pooled: from the model method + seed, whose residual spreads by {spreads} points "
        f"({degrees} degrees of freedom), p by Dunnett's comparison. "
    )


def _caption(
    study: Table1,
    records: dict,
    places: set[str],
    teachers: list[str],
    rows: list[dict],
    pooled: dict[str, Blocks],
) -> str:
    experiment, table = study.experiment, study.table
    statistics = experiment.statistics
    least = [(row.get("gain_detectable"), row["title"]) for row in rows]
    run = next(iter(records[table.baseline].values()))
    result = run["result"]
    where = "each on the device and threads of its runs: such rates are not comparable"
    if len(places) == 1:
        (where,) = places
    return (
        f"Scale {experiment.name}: {experiment.description}. Top-1 (%) of the last epoch on "
        f"{result['images']:,} {result['split']} images; pair {', '.join(table.pairs)}, recipe "
        f"{table.recipe}, "
        f"{in_epochs(table.epochs)} = {run['images_seen']:,} images seen. "
        f"n = {len(study.seeds)} paired seeds, {100 * experiment.statistics.confidence:g} % "
        f"t intervals; gains are seed-by-seed differences to {table.baseline}, p after Holm. "
        f"{_on_blocks(pooled)}{detectable_in_words(least, statistics)}"
        f"Runs ahead: of all pairs of one run each and any seeds, those in which the method is "
        f"ahead of {table.baseline}. "
        f"{' '.join(teachers)} Images/s: training, the "
        f"method alone with its teacher's pass, {where}."
    )


def _places(records: dict[str, dict[int, dict]]) -> set[str]:
    """On which devices the runs were made, in words."""
    return {
        f"on {found['device']} ({found['processor']}, {found['threads']} thread(s))"
        for runs in records.values()
        for found in (run["environment"] for run in runs.values())
    }
