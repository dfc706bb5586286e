"""Table 1 as text: the readable table, words, and verdicts on claims."""

import pandas as pd

from benchmarks.evidence.between_methods import parts as on_contrasts
from benchmarks.evidence.words import (
    DECIDES,
    MISSING,
    after_correction,
    readable_interval,
    readable_p,
    sentence,
    verdicts,
)
from benchmarks.table1 import Table1
from benchmarks.table1.measure import Measured
from manifold.settings import Experiment

REPORTED = "Reported, ImageNet-1k"


def readable(rows: pd.DataFrame, study: Table1) -> pd.DataFrame:
    def shown(value: object, form: str) -> str:
        return MISSING if pd.isna(value) else f"{value:{form}}"

    def reported(values: pd.Series) -> str:
        if pd.isna(values["reported"]):
            return MISSING
        recipe = values["reported_recipe"] or "unknown"
        own = "" if recipe == values["recipe"] else f", recipe {recipe}"
        return f"{values['reported']} ({values['evidence']}{own})"

    def row(values: pd.Series) -> dict:
        return {
            "Method": values["title"],
            "n": values["n"],
            "Top-1 (%)": readable_interval(values, "top1"),
            f"Gain over {study.table.baseline}": readable_interval(values, "gain", "+"),
            "p (Holm)": readable_p(values["p_holm"]),
            "Gain, pooled": _pooled(values),
            "p (Dunnett)": readable_p(values["p_dunnett"]),
            "Runs ahead (%)": shown(values["runs_ahead"], ".0f"),
            **({REPORTED: reported(values)} if study.judges else {}),
            "EMA": shown(values["ema_top1_mean"], ".2f"),
            "Best epoch": shown(values["best_top1_mean"], ".2f"),
            "Epochs": shown(values["epochs"], ".0f"),
            "Images seen": shown(values["images_seen"], ",.0f"),
            "Recipe": shown(values["recipe"], ""),
            "Tokens": values["tokens"],
            "Labels": "yes" if values["labels"] else "no",
            "Gradient (%)": _gradient(values["gradient_shares"]),
            **({"Pair": values["pair"]} if len(study.table.pairs) > 1 else {}),
            "Parameters": f"{values['parameters']:,}",
            "Images/s": shown(values["images_per_second"], ".0f"),
            "Teacher": values["teacher_sha256"][:8],
        }

    return pd.DataFrame([row(values) for _, values in rows.iterrows()])


def _pooled(values: pd.Series) -> str:
    if values["spreads_otherwise"] is True:
        return "spreads otherwise"
    return readable_interval(values, "pooled_gain", "+")


def _gradient(shares: object) -> str:
    """Each term's share in the order of their size, in per cent."""
    if not isinstance(shares, str) or not shares:
        return MISSING
    pairs = [pair.split("=") for pair in shares.split()]
    ranked = sorted(((float(share), term) for term, share in pairs), reverse=True)
    return ", ".join(
        f"{term} {100 * share:.0f}" if share >= 0.1 else f"{term} {100 * share:.2g}"
        for share, term in ranked
    )


def parts(table: Measured, study: Table1) -> list[str | list[str] | pd.DataFrame]:
    """What stands below the caption."""
    whole, words = readable(table.rows, study), _in_words(table, study)
    between = on_contrasts(table.contrasts, study.experiment, {"pair": "Pair"}, "pair")
    if table.claims is None:
        return [whole, "## In words", words, *between]
    return [
        whole,
        _words_on_reported(study.experiment),
        "## In words",
        words,
        *between,
        *_parts_on_claims(table.claims, study.experiment),
    ]


def _parts_on_claims(
    all_claims: pd.DataFrame, experiment: Experiment
) -> list[str | list[str] | pd.DataFrame]:
    """The verdicts of this run."""
    shown, others = all_claims[all_claims["n"] > 0], all_claims[all_claims["n"] == 0]
    claims = pd.DataFrame(
        [
            {
                "Claim": f"{row['id']}: {row['claim']}",
                "Reported": f"{row['reported']} {row['unit']} ({row['evidence']})",
                f"Measured at {experiment.name}": (
                    f"{readable_interval(row, 'measured', _sign(row))}, n = {row['n']}"
                ),
                "Here": row["direction_here"] or MISSING,
                "One more run would end in": _predicted(row),
                "Seeds to tell it": MISSING
                if pd.isna(row["seeds_to_tell"])
                else f"{row['seeds_to_tell']:.0f}",
                "Verdict on the claim": row["verdict"],
            }
            for _, row in shown.iterrows()
        ]
    )
    statistics = experiment.statistics
    return [
        "## Claims",
        "A claim is judged where data, networks, budget and recipe are those that it names, on "
        "each side of a difference; what it leaves unsaid, no run is like. It is contradicted "
        f"where one more run would end elsewhere, at {100 * statistics.confidence:g} % and with "
        "the rounding of its digits; a difference is supported where the interval leaves out zero, "
        f"and a difference of none where it is within {statistics.margin:g} points by two "
        "one-sided tests. All other runs are not comparable: they say which method is ahead here, "
        "and no more. Seeds to tell it: with so many, "
        f"{100 * statistics.power:g} % of studies whose pairs spread as these do would tell a "
        "difference of the reported size from zero.",
        claims if len(claims) else "This run judges no claim.",
        *(
            f"{verdict[0].upper()}{verdict[1:]}: {', '.join(own['id'])}."
            for verdict, own in others.groupby("verdict", sort=False)
        ),
    ]


def _predicted(row: pd.Series) -> str:
    if pd.isna(row["predicted_low"]):
        return MISSING
    sign = _sign(row)
    return f"[{row['predicted_low']:{sign}.2f}, {row['predicted_high']:{sign}.2f}]"


def _sign(row: pd.Series) -> str:
    """How a claim's numbers begin: a difference with its sign, an accuracy without."""
    return "+" if row["unit"] == "points" else ""


def _words_on_reported(experiment: Experiment) -> str:
    dash = "A dash means that no number with evidence is known, or that none applies."
    if experiment.reported_dataset is None:
        return (
            "The reported numbers are of other data and longer schedules: they stand here for "
            f"orientation and are not what this scale can reproduce. {dash}"
        )
    return f"The reported numbers are of {experiment.reported_dataset}, as this run is. {dash}"


def _in_blocks(rows: pd.DataFrame, baseline: str, confidence: float) -> str:
    """Which rows the block model tells from the baseline, and which it says nothing of."""
    inside = rows[rows["p_dunnett"].notna()]
    told = inside[inside["p_dunnett"] < 1 - confidence]
    ahead, behind = (
        "; ".join(told.loc[chosen, "title"]) or "none"
        for chosen in (told["gain_mean"] > 0, told["gain_mean"] < 0)
    )
    line = (
        f"in the block model, by Dunnett's comparison over its {len(inside)} methods at "
        f"p < {1 - confidence:.2g}, ahead of {baseline}: {ahead}. Behind: {behind}"
    )
    others = rows[rows["spreads_otherwise"].astype(bool)]
    if len(others):
        told = others.loc[others["p_holm"] < 1 - confidence, "title"]
        line += (
            f". Of another spread, and judged by their own pairs after Holm: "
            f"{'; '.join(others['title'])}; told of these: {'; '.join(told) or 'none'}"
        )
    return line


def _in_words(table: Measured, study: Table1) -> list[str]:
    """Say which gains the intervals decide, without a number but the shares of gradients."""
    experiment, rows = study.experiment, table.rows
    if len(study.table.pairs) > 1:
        rows = rows.assign(title=rows["title"] + " [" + rows["pair"] + "]")
    gains = rows[rows["gain_mean"].notna()]
    baseline = experiment.method_definitions[study.table.baseline].title
    decided = verdicts(
        gains,
        "gain",
        f"ahead of {baseline} (the interval lies above zero)",
        f"behind {baseline} (the interval lies below zero)",
        "undecided (the interval holds zero)",
    )
    lines = [sentence({words: names}) for words, names in decided.items()]
    confidence = experiment.statistics.confidence
    for _, own in gains.groupby("pair", sort=False):  # the families of the corrections
        paired = after_correction(own, baseline, confidence, "title")
        tests = {"blocks": _in_blocks(own, baseline, confidence), "paired": paired}
        others = [line for name, line in tests.items() if name != table.primary]
        lines += [f"{DECIDES}{tests[table.primary]}", *others]
    weak = rows[rows["own_gradient_share"] < experiment.statistics.least_share]
    if len(weak):
        least = f"{100 * experiment.statistics.least_share:g} %"
        shown = "; ".join(
            f"{row['title']} ({100 * row['own_gradient_share']:.2g} %)"
            for _, row in weak.iterrows()
        )
        lines.append(
            f"rows whose own terms make less than {least} of the student's gradient: {shown}"
        )
    unlabelled = rows.loc[~rows["labels"].astype(bool), "title"]
    if len(unlabelled):
        lines.append(f"trained without labels: {'; '.join(unlabelled)}")
    return lines
