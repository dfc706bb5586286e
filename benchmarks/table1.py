"""Table 1: every method next to the reported number, with intervals, gains and verdicts.

``python -m benchmarks.table1 --config scale=mini`` writes ``table1.{md,csv,tex,png,pdf}``,
``table1_claims.csv`` and ``table1_seeds.csv`` from the cells that have been trained. With
``--bench`` it writes the same of every method of the full bench, as ``bench.*``.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.cells import collect, loss_terms
from benchmarks.figures import draw_table1
from benchmarks.reporting import (
    MISSING,
    after_correction,
    interval_columns,
    latex,
    readable_interval,
    readable_p,
    sentence,
    verdicts,
    write_figure,
)
from benchmarks.teacher import read_teacher
from manifold import command
from manifold.claims import Claim, judge_direction, judge_value, read_claims
from manifold.config import Experiment
from manifold.files import write_text
from manifold.statistics import Interval, gains_over, holm, mean_interval, paired_difference

TITLES = {"table1": "Table 1", "bench": "The full bench"}
LABEL_TERM = "cross_entropy"  # the term that every method that sees labels has


@dataclass
class Table1:
    """The measured table.

    Attributes:
        rows: one a method and one for the teacher, columns as in ``table1.csv``.
        claims: one a claim of claims.csv, with this scale's verdict.
        seeds: one a method and seed.
    """

    rows: pd.DataFrame
    claims: pd.DataFrame
    seeds: pd.DataFrame
    caption: str


def build(experiment: Experiment, methods: list[str] | None = None) -> Table1:
    """Read the cells and compute the table of ``methods``, by default the scale's."""
    table = experiment.table1
    claims = read_claims(Path(experiment.claims), table.claim_ids())
    rows, seeds, top1, captions = [], [], {}, []
    for pair in table.pairs:
        records = collect(
            experiment, pair, table.recipe, table.epochs, experiment.methods_of(pair, methods)
        )
        teacher = read_teacher(experiment, pair)
        top1[pair] = {
            method: {seed: record["result"]["top1"] for seed, record in runs.items()}
            for method, runs in records.items()
        }
        rows += _pair_rows(experiment, pair, records, top1[pair], claims)
        rows.append(_teacher_row(experiment, pair, teacher))
        seeds += _seed_rows(pair, records)
        captions.append(f"The teacher of {pair} reaches {teacher['top1']:.2f} % (one run).")
    return Table1(
        rows=pd.DataFrame(rows),
        claims=pd.DataFrame([_claim_row(experiment, claim, top1) for claim in claims.values()]),
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
        "method": "teacher",
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


# ---- writing ---------------------------------------------------------------------------------


def write(table: Table1, experiment: Experiment, name: str = "table1") -> None:
    """Write every format into the experiment's folder, as ``name.*``."""
    directory = experiment.directory
    readable = _readable(table.rows, experiment)
    write_text(directory / f"{name}.csv", table.rows.to_csv(index=False))
    write_text(directory / f"{name}_claims.csv", table.claims.to_csv(index=False))
    write_text(directory / f"{name}_seeds.csv", table.seeds.to_csv(index=False))
    write_text(directory / f"{name}.md", _markdown(table, readable, experiment, TITLES[name]))
    write_text(directory / f"{name}.tex", latex(readable, table.caption))
    figure = draw_table1(table.rows, table.seeds, experiment.table1.baseline, table.caption)
    write_figure(figure, directory, name)


def _readable(rows: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    def shown(value: object, form: str) -> str:
        return MISSING if pd.isna(value) else f"{value:{form}}"

    def row(values: pd.Series) -> dict:
        return {
            "Method": values["title"],
            "n": values["n"],
            "Top-1 (%)": readable_interval(values, "top1"),
            f"Gain over {experiment.table1.baseline}": readable_interval(values, "gain", "+"),
            "p (Holm)": readable_p(values["p_holm"]),
            "Reported, ImageNet-1k": MISSING
            if pd.isna(values["reported"])
            else f"{values['reported']} ({values['evidence']})",
            "EMA": shown(values["ema_top1_mean"], ".2f"),
            "Best epoch": shown(values["best_top1_mean"], ".2f"),
            "Epochs": shown(values["epochs"], ".0f"),
            "Images seen": shown(values["images_seen"], ",.0f"),
            "Recipe": shown(values["recipe"], ""),
            "Tokens": values["tokens"],
            "Labels": "yes" if values["labels"] else "no",
            **({"Pair": values["pair"]} if len(experiment.table1.pairs) > 1 else {}),
            "Parameters": f"{values['parameters']:,}",
            "Images/s": shown(values["images_per_second"], ".0f"),
            "Teacher": values["teacher_sha256"][:8],
        }

    return pd.DataFrame([row(values) for _, values in rows.iterrows()])


def _markdown(table: Table1, readable: pd.DataFrame, experiment: Experiment, title: str) -> str:
    judged = table.claims[table.claims["n"] > 0]
    unjudged = table.claims[table.claims["n"] == 0]
    claims = pd.DataFrame(
        [
            {
                "Claim": f"{row['id']}: {row['claim']}",
                "Reported": f"{row['reported']} {row['unit']} ({row['evidence']})",
                f"Measured at {experiment.name}": f"{readable_interval(row, 'measured', '+')}, "
                f"n = {row['n']}",
                f"Its direction, at {experiment.name}": row["direction_at_this_scale"],
                f"At its own scale ({row['dataset']})": row["verdict_at_reported_scale"],
            }
            for _, row in judged.iterrows()
        ]
    )
    return "\n".join(
        [
            f"# {title}, {experiment.name}",
            "",
            table.caption,
            "",
            readable.to_markdown(index=False),
            "",
            _words_on_reported(experiment),
            "",
            "## In words",
            "",
            *_in_words(table.rows, experiment),
            "",
            "## Claims",
            "",
            "A verdict on a direction is on the sign of a difference, from its interval, at this "
            "scale alone. A claim is judged at its own scale where data, networks, budget and "
            "recipe are those that it names; no other run confirms or refutes it.",
            "",
            *_claims_in_words(judged, experiment),
            claims.to_markdown(index=False) if len(claims) else "This run judges no claim.",
            "",
            f"Not run at this scale: {', '.join(unjudged['id'])}." if len(unjudged) else "",
            "",
        ]
    )


def _claims_in_words(judged: pd.DataFrame, experiment: Experiment) -> list[str]:
    """Which directions the intervals of this scale decide, and how; then an empty line."""
    words = {
        "supported": f"holds at {experiment.name}",
        "contradicted": f"does not hold at {experiment.name}",
        "inconclusive": f"undecided at {experiment.name} (the interval holds zero)",
    }
    lines = [
        f"- {said}: {'; '.join(judged.loc[judged['direction_at_this_scale'] == verdict, 'id'])}"
        for verdict, said in words.items()
        if (judged["direction_at_this_scale"] == verdict).any()
    ]
    return [*lines, ""] if lines else []


def _words_on_reported(experiment: Experiment) -> str:
    dash = "A dash means that no number with evidence is known, or that none applies."
    if experiment.reported_dataset is None:
        return (
            "The reported numbers are of other data and longer schedules: they stand here for "
            f"orientation and are not what this scale can reproduce. {dash}"
        )
    return f"The reported numbers are of {experiment.reported_dataset}, as this run is. {dash}"


def _in_words(rows: pd.DataFrame, experiment: Experiment) -> list[str]:
    """Say which gains the intervals decide, without a number."""
    if len(experiment.table1.pairs) > 1:
        rows = rows.assign(title=rows["title"] + " [" + rows["pair"] + "]")
    gains = rows[rows["gain_mean"].notna()]
    baseline = experiment.method_definitions[experiment.table1.baseline].title
    decided = verdicts(
        gains,
        "gain",
        f"ahead of {baseline} (the interval lies above zero)",
        f"behind {baseline} (the interval lies below zero)",
        "undecided (the interval holds zero)",
    )
    lines = [f"- {sentence({words: names})}" for words, names in decided.items()]
    confidence = experiment.statistics.confidence
    lines += [
        f"- {after_correction(own, baseline, confidence, 'title')}"
        for _, own in gains.groupby("pair", sort=False)  # the families of the correction
    ]
    unlabelled = rows.loc[~rows["labels"].astype(bool), "title"]
    if len(unlabelled):
        lines.append(
            f"- trained without labels, by the recipe's alpha = 1: {'; '.join(unlabelled)}"
        )
    return lines


def main() -> None:
    parser = command.parser("benchmarks.table1", __doc__)
    parser.add_argument("--bench", action="store_true", help="every method of the full bench")
    options = parser.parse_args()
    experiment = command.experiment(options)
    if options.bench:
        write(build(experiment, experiment.bench_methods()), experiment, "bench")
    else:
        write(build(experiment), experiment)


if __name__ == "__main__":
    command.run(main)
