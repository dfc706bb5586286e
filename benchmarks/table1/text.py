"""Table 1 as text: the readable table, words, and verdicts on claims."""

import pandas as pd

from benchmarks.evidence.words import (
    MISSING,
    after_correction,
    readable_interval,
    readable_p,
    sentence,
    verdicts,
)
from benchmarks.table1.measure import Measured
from manifold.settings import Experiment

REPORTED = "Reported, ImageNet-1k"


def readable(rows: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    def shown(value: object, form: str) -> str:
        return MISSING if pd.isna(value) else f"{value:{form}}"

    def reported(values: pd.Series) -> str:
        is_known = pd.notna(values["reported"])
        return f"{values['reported']} ({values['evidence']})" if is_known else MISSING

    def row(values: pd.Series) -> dict:
        return {
            "Method": values["title"],
            "n": values["n"],
            "Top-1 (%)": readable_interval(values, "top1"),
            f"Gain over {experiment.table1.baseline}": readable_interval(values, "gain", "+"),
            "p (Holm)": readable_p(values["p_holm"]),
            **({} if experiment.claims is None else {REPORTED: reported(values)}),
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


def parts(table: Measured, experiment: Experiment) -> list[str | list[str] | pd.DataFrame]:
    """What stands below the caption."""
    whole, words = readable(table.rows, experiment), _in_words(table.rows, experiment)
    if table.claims is None:
        return [whole, "## In words", words]
    return [
        whole,
        _words_on_reported(experiment),
        "## In words",
        words,
        *_parts_on_claims(table.claims, experiment),
    ]


def _parts_on_claims(
    all_claims: pd.DataFrame, experiment: Experiment
) -> list[str | list[str] | pd.DataFrame]:
    """The verdicts of this run."""
    judged, unjudged = all_claims[all_claims["n"] > 0], all_claims[all_claims["n"] == 0]
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
    return [
        "## Claims",
        "A verdict on a direction is on the sign of a difference, from its interval, at this "
        "scale alone. A claim is judged at its own scale where data, networks, budget and "
        "recipe are those that it names; no other run confirms or refutes it.",
        _claims_in_words(judged, experiment),
        claims if len(claims) else "This run judges no claim.",
        f"Not run at this scale: {', '.join(unjudged['id'])}." if len(unjudged) else "",
    ]


def _claims_in_words(judged: pd.DataFrame, experiment: Experiment) -> list[str]:
    """Which directions the intervals of this scale decide, and how."""
    words = {
        "supported": f"holds at {experiment.name}",
        "contradicted": f"does not hold at {experiment.name}",
        "inconclusive": f"undecided at {experiment.name} (the interval holds zero)",
    }
    return [
        f"{said}: {'; '.join(judged.loc[judged['direction_at_this_scale'] == verdict, 'id'])}"
        for verdict, said in words.items()
        if (judged["direction_at_this_scale"] == verdict).any()
    ]


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
    lines = [sentence({words: names}) for words, names in decided.items()]
    confidence = experiment.statistics.confidence
    lines += [
        after_correction(own, baseline, confidence, "title")
        for _, own in gains.groupby("pair", sort=False)  # the families of the correction
    ]
    unlabelled = rows.loc[~rows["labels"].astype(bool), "title"]
    if len(unlabelled):
        lines.append(f"trained without labels, by the recipe's alpha = 1: {'; '.join(unlabelled)}")
    return lines
