"""The rows and words of the training curves, from every cell's metrics.csv."""

import math

import pandas as pd

from benchmarks.curves import Curves
from benchmarks.evidence.captions import detectable_in_words, least_differences
from benchmarks.evidence.cells import loss_terms, metrics_of
from benchmarks.evidence.document import Document
from benchmarks.evidence.statistics import HIGHEST, mean_interval, paired_difference
from benchmarks.evidence.words import (
    in_epochs,
    interval_columns,
    readable_interval,
    sentence,
    verdicts,
)
from manifold.training.records import SHARE

ACCURACY, LOSS, GRADIENT = "validation top-1", "loss", "gradient share"
WITHIN = {ACCURACY: (0, HIGHEST), LOSS: (-math.inf, math.inf), GRADIENT: (0, 1)}
DIGITS = {ACCURACY: 2, LOSS: 4, GRADIENT: 3}
KEY = ["method", "title", "quantity", "term", "epoch"]


def build(study: Curves) -> Document:
    """Read the cells' metrics, and compute the document.

    Raises:
        UserError: a cell is missing, damaged, or of another configuration.
    """
    seeds, looked = read(study)
    rows = summarise(seeds, study.experiment.statistics.confidence)

    def figure(caption: str):
        from benchmarks.curves.figure import draw

        return draw(rows, study.settings.baseline, caption)

    shown = readable(rows)
    return Document(
        title=f"{study.title}, {study.experiment.name}",
        caption=_caption(study, seeds, looked),
        parts=["## In words", in_words(seeds, study), "## Every curve", shown],
        csv={"": rows, "_seeds": seeds},
        latex=[(shown, "")],
        figures={"": figure},
    )


def read(study: Curves) -> tuple[pd.DataFrame, set[int]]:
    """One row a method, seed, epoch and quantity; what an epoch did not measure is left out.

    Returns:
        These, and after how many steps each the gradients were looked at.
    """
    ((key, methods),) = study.students().items()
    found, definitions = [], study.experiment.method_definitions
    looked = set()
    for method, runs in study.collect(*key, methods).items():
        for seed, record in runs.items():
            cohort = record.get("environment", {}).get(
                "cohort", study.experiment.cohort.model_dump()
            )
            looked.add(cohort["gradient_steps"])
            metrics = metrics_of(study.experiment, (*key, method, seed))
            terms = loss_terms(metrics)
            columns = {
                "validation_top1": (ACCURACY, ""),
                **{term: (LOSS, term) for term in terms},
                **{f"{SHARE}{term}": (GRADIENT, term) for term in terms},
            }
            found += [
                {
                    "method": method,
                    "title": definitions[method].title,
                    "seed": seed,
                    "epoch": int(epoch["epoch"]),
                    "step": int(epoch["step"]),
                    "quantity": quantity,
                    "term": term,
                    "value": float(epoch[column]),
                }
                for epoch in metrics
                for column, (quantity, term) in columns.items()
                if epoch.get(column)
            ]
    return pd.DataFrame(found), looked - {None}


def summarise(seeds: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Means over the seeds with intervals, a row a method, quantity, term and epoch."""
    rows = []
    for key, own in seeds.groupby(KEY, sort=False):
        named = dict(zip(KEY, key, strict=True))
        interval = mean_interval(list(own["value"]), confidence, WITHIN[named["quantity"]])
        row = {**named, "step": own["step"].iloc[0], "n": interval.n}
        rows.append(row | interval_columns("value", interval))
    return pd.DataFrame(rows)


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a curve: where it starts and ends."""
    shown = []
    for (_, title, quantity, term), own in rows.groupby(KEY[:-1], sort=False):
        ends = own.sort_values("epoch").iloc[[0, -1]]
        first, last = (row for _, row in ends.iterrows())
        shown.append(
            {
                "Method": title,
                "Curve": f"{quantity} {term}".strip() + (" (%)" if quantity == ACCURACY else ""),
                "n": first["n"],
                "First epoch": readable_interval(first, "value", digits=DIGITS[quantity]),
                "Last epoch": readable_interval(last, "value", digits=DIGITS[quantity]),
            }
        )
    return pd.DataFrame(shown)


def in_words(seeds: pd.DataFrame, study: Curves) -> list[str]:
    """Which terms fall, and which gain weight in the gradient, from the first epoch to the last."""
    if seeds["epoch"].nunique() == 1:
        return ["one epoch, and so no curve"]
    confidence, lines = study.experiment.statistics.confidence, []
    for quantity, words in (
        (LOSS, ("losses that rise", "losses that fall", "losses not told from constant")),
        (
            GRADIENT,
            (
                "terms whose share of the gradient grows",
                "terms whose share of the gradient shrinks",
                "terms whose share is not told from constant",
            ),
        ),
    ):
        changes = []
        of_kind = seeds[seeds["quantity"] == quantity]
        for (_, title, _, term), own in of_kind.groupby(KEY[:-1], sort=False):
            ends = own["epoch"].min(), own["epoch"].max()
            first, last = (
                own[own["epoch"] == epoch].set_index("seed")["value"].to_dict() for epoch in ends
            )
            if ends[0] == ends[1]:
                continue
            change = paired_difference(last, first, confidence, most=math.inf)
            changes.append({"title": f"{term} of {title}", **interval_columns("change", change)})
        if changes:
            lines.append(sentence(verdicts(pd.DataFrame(changes), "change", *words)))
    return lines


def _detectable(study: Curves, seeds: pd.DataFrame) -> str:
    """What a gain in the last validation top-1 would have to be; it is in no table."""
    experiment, baseline = study.experiment, study.settings.baseline
    of_kind = seeds[seeds["quantity"] == ACCURACY]
    last = of_kind[of_kind["epoch"] == study.settings.epochs]
    if baseline not in set(last["method"]):
        return " Without held-out images no gain is compared."
    titles = {m: experiment.method_definitions[m].title for m in study.methods}
    least = least_differences(last, "value", baseline, titles, experiment.statistics)
    words = detectable_in_words(
        least, experiment.statistics, what=f"gain in final top-1 over {baseline}"
    )
    return f" {words}".rstrip()


def _caption(study: Curves, seeds: pd.DataFrame, looked: set[int]) -> str:
    experiment, curves = study.experiment, study.settings
    steps = seeds.loc[seeds["epoch"] == 1, "step"].iloc[0]
    has_shares = (seeds["quantity"] == GRADIENT).any()
    steps_between = " or ".join(map(str, sorted(looked)))
    return (
        f"Scale {experiment.name}: {experiment.description}. Pair {curves.pair}, recipe "
        f"{curves.recipe}, {in_epochs(curves.epochs)} of {steps:,} steps. Means over "
        f"n = {len(study.seeds)} seeds with {100 * experiment.statistics.confidence:g} % t "
        "intervals. Top-1 is on held-out training images, after each epoch; losses are weighted, "
        f"as they are added up, and means over an epoch's steps.{_detectable(study, seeds)}"
        + (
            f" Gradient shares: the norm of a term's gradient by the student's parameters over the "
            f"sum of all terms' norms, looked at every {steps_between} steps."
            if has_shares
            else ""
        )
    )
