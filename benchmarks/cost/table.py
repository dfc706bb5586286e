"""The tables of the cost study: medians and quartiles, and ratios taken round by round."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.cost import Cost
from benchmarks.evidence.words import MISSING
from manifold.errors import UserError
from manifold.files import read_text

MEBIBYTE = 2**20
# Parts of cost.csv.
LOSSES, STEPS, COHORTS, PRODUCTS, OPERATORS = "loss", "step", "cohort", "product", "operator"
OTHERS = "all others"  # of the operators
PAIRWISE, FULL, REFERENCE, DECOUPLED = "pairwise", "full", "reference", "decoupled"
TEACHER = "the teacher's pass"
SHOWN = {
    PAIRWISE: "Full, all pairs formed",
    FULL: "Full, as here",
    REFERENCE: "Decoupled, as the paper states it",
    DECOUPLED: "Decoupled, as here",
}


@dataclass
class Found:
    """What was measured.

    Attributes:
        rows: as in cost.csv, one a form and batch, a method, a cohort.
        rounds: as in cost_rounds.csv, one a measurement.
        baseline: the method over which steps are shown.
    """

    rows: pd.DataFrame
    rounds: pd.DataFrame
    caption: str
    baseline: str


def measure(study: Cost) -> Found:
    """Read the measurements, and compute rows.

    Raises:
        UserError: a file is missing or damaged.
    """
    losses, steps = (_read(study, part) for part in ("losses", "steps"))
    rounds = pd.DataFrame([*_loss_rounds(losses), *_step_rounds(steps)])
    baseline = study.settings.steps.baseline
    rows = [
        *_loss_rows(study, losses),
        *_method_rows(study, steps, baseline),
        *_cohort_rows(study, steps),
        _product_row(study, steps),
        *_operator_rows(study, steps),
    ]
    return Found(pd.DataFrame(rows), rounds, _caption(study, losses, steps), baseline)


def _read(study: Cost, part: str) -> dict:
    path = study.measured_file(part)
    try:
        return json.loads(read_text(path))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}); snakemake --cores all reproduce_cost makes it"
        ) from None


def _loss_rounds(losses: dict) -> list[dict]:
    return [
        {"part": LOSSES, "what": each["form"], "size": each["batch"], "round": n, "seconds": s}
        for each in losses["measurements"]
        for n, s in enumerate(each["seconds"])
    ]


def _step_rounds(steps: dict) -> list[dict]:
    passes = {f"{TEACHER}, {name}": taken for name, taken in steps["teacher_precisions"].items()}
    rounds = [
        {"part": STEPS, "what": name, "size": 1, "round": n, "seconds": s}
        for name, seconds in (passes | steps["alone"]).items()
        for n, s in enumerate(seconds)
    ]
    rounds += [
        {"part": COHORTS, "what": "cohort", "size": each["members"], "round": n, "seconds": s}
        for each in steps["cohorts"]
        for n, s in enumerate(each["seconds"])
    ]
    return rounds + [
        {"part": PRODUCTS, "what": "product", "size": 1, "round": n, "seconds": s}
        for n, s in enumerate(steps["products"])
    ]


def products(form: str, batch: int, tokens: int, channels: int, samples: int) -> float:
    """Multiplications of one net's maps in a form, as the paper counts them.

    Args:
        channels: of a token (the paper's D).

    Source: paper, section 3: (B·N)²·D for the full map; B·N²·D + N·B²·D + K²·D decoupled.
    """
    if form in (PAIRWISE, FULL):
        return (batch * tokens) ** 2 * channels
    return (batch * tokens**2 + tokens * batch**2 + samples**2) * channels


def spread(values, key: str) -> dict[str, float]:
    """The median of some rounds and their quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {f"{key}_median": median, f"{key}_low": low, f"{key}_high": high}


def _loss_rows(study: Cost, losses: dict) -> list[dict]:
    """Ratios are over the decoupled loss as the suite computes it, at the same batch."""
    shapes = study.settings.losses
    taken = {(m["form"], m["batch"]): np.array(m["seconds"]) for m in losses["measurements"]}
    rows = []
    for each in losses["measurements"]:
        form, batch = each["form"], each["batch"]
        own = taken[form, batch]
        counted = [
            products(form, batch, shapes.tokens, channels, shapes.samples)
            for channels in (shapes.student_channels, shapes.teacher_channels)
        ]
        rows.append(
            {
                "part": LOSSES,
                "what": form,
                "size": batch,
                "n": len(own),
                **spread(1000 * own, "milliseconds"),
                **spread(own / taken[DECOUPLED, batch], "ratio"),
                "peak_mebibytes": each["peak_bytes"] / MEBIBYTE,
                "papers_products": sum(counted),
            }
        )
    return rows


def _at_rate(operations: float, study: Cost, steps: dict) -> dict[str, float]:
    """Operations, and how long they take at the rate of the product that was measured."""
    rate = 2 * study.settings.steps.product**3 / np.median(steps["products"])
    return {"gigaoperations": operations / 1e9, "milliseconds_at_rate": 1000 * operations / rate}


def _product_row(study: Cost, steps: dict) -> dict:
    """The product that says how fast the machine multiplies."""
    seconds = np.array(steps["products"])
    return {
        "part": PRODUCTS,
        "what": "product",
        "size": study.settings.steps.product,
        "n": len(seconds),
        **spread(1000 * seconds, "milliseconds"),
        **_at_rate(2 * study.settings.steps.product**3, study, steps),
    }


def _operator_rows(study: Cost, steps: dict) -> list[dict]:
    """The operators of one step of a cohort, and their shares of the time inside all of them."""
    seconds, shown = steps["operators"], study.settings.steps.operators
    others = sum(list(seconds.values())[shown:])
    named = dict(list(seconds.items())[:shown]) | ({OTHERS: others} if others else {})
    whole = sum(seconds.values())
    return [
        {
            "part": OPERATORS,
            "what": name,
            "size": study.settings.steps.profiled,
            "n": 1,
            "share": own / whole,
        }
        for name, own in named.items()
    ]


def _method_rows(study: Cost, steps: dict, baseline: str) -> list[dict]:
    """Ratios are over a step of the baseline; both have the teacher's pass in them."""
    alone = {name: np.array(seconds) for name, seconds in steps["alone"].items()}
    peaks = {tuple(each["methods"]): each["peak_bytes"] for each in steps["peaks"]}
    rows = [
        {
            "part": STEPS,
            "what": f"{TEACHER}, {precision}",
            "size": 1,
            "n": len(seconds),
            **spread(1000 * np.array(seconds), "milliseconds"),
            # The rate that was measured is of float32.
            **(
                _at_rate(steps["operations_of_teacher"], study, steps)
                if precision == "float32"
                else {}
            ),
        }
        for precision, seconds in steps["teacher_precisions"].items()
    ]
    for name, seconds in alone.items():
        rows.append(
            {
                "part": STEPS,
                "what": name,
                "size": 1,
                "n": len(seconds),
                **spread(1000 * seconds, "milliseconds"),
                **spread(seconds / alone[baseline], "ratio"),
                **_at_rate(steps["operations"][name], study, steps),
                "peak_mebibytes": peaks[name,] / MEBIBYTE,
            }
        )
    return rows


def _cohort_rows(study: Cost, steps: dict) -> list[dict]:
    """Ratios are over the sum of the members' steps alone; ``limit`` pays for one pass only.

    Memory is over that of the heaviest of the members by itself; its ``memory_limit`` adds to the
    heaviest what the others keep between their steps, and nothing else.
    """
    alone = {name: np.array(seconds) for name, seconds in steps["alone"].items()}
    shared = float(np.median(steps["teacher"])) if steps["teacher"] else 0.0
    peaks = {tuple(each["methods"]): each["peak_bytes"] for each in steps["peaks"]}
    rows = []
    for each in steps["cohorts"]:
        names = study.settings.steps.methods[: each["members"]]
        own, apart = np.array(each["seconds"]), sum(alone[name] for name in names)
        taught = sum(name in steps["uses_teacher"] for name in names)
        passes = max(0, taught - 1)  # that are saved
        computed = sum(steps["operations"][name] for name in names)
        heaviest = max(names, key=lambda name: peaks[name,])
        kept = sum(steps["held_bytes"][name] for name in names if name != heaviest)
        rows.append(
            {
                "part": COHORTS,
                "what": "cohort",
                "size": each["members"],
                "n": len(own),
                **spread(1000 * own, "milliseconds"),
                **spread(own / apart, "ratio"),
                "limit": 1 - passes * shared / float(np.median(apart)),
                **_at_rate(computed - passes * steps["operations_of_teacher"], study, steps),
                "peak_mebibytes": peaks[tuple(names)] / MEBIBYTE,
                "peak_over_heaviest": peaks[tuple(names)] / peaks[heaviest,],
                "memory_limit": 1 + kept / peaks[heaviest,],
            }
        )
    return rows


def _caption(study: Cost, losses: dict, steps: dict) -> str:
    shapes, own = study.settings.losses, study.settings.steps
    environment = losses["environment"]
    where = environment["processor"] or environment["platform"]
    if environment["device"] != "cpu":
        where = f"{environment['device']}, {where}"
    experiment = study.experiment
    precision = experiment.recipes[own.recipe].precision
    return (
        f"Scale {experiment.name}: {experiment.description}. Medians [quartiles] over "
        f"n = {shapes.rounds} interleaved rounds on {where}, "
        f"{environment['threads']} thread(s), torch {environment['packages']['torch']}. Losses: "
        f"one layer pair, forward and backward, float32, N = {shapes.tokens} tokens of "
        f"{shapes.student_channels} (student) and {shapes.teacher_channels} (teacher) channels, "
        f"K = {shapes.samples}. Steps: pair {own.pair}, recipe {own.recipe} in {precision}, "
        f"{own.images} images, n = {own.rounds} rounds, the teacher's pass in each; their memory: "
        f"of {own.memory_images} images, networks and optimizers included. Rounds are no seeds: "
        "nothing is tested, and so no least gain is said. Other machines have other times; ratios "
        "are taken round by round. GFLOP: floating-point operations of products, convolutions and "
        f"attention, forward and backward; at that rate: what they would take at the rate of a "
        f"float32 product of {own.product}³, if everything else (normalisation, activations, "
        "losses, optimizer, copies) cost nothing. Operators: of one step."
    )


def readable(found: Found) -> tuple[pd.DataFrame, ...]:
    """The tables of the losses, the methods, the cohorts and the operators, as text."""
    parts = {part: rows for part, rows in found.rows.groupby("part")}
    losses, steps, cohorts, operators = (
        parts[part] for part in (LOSSES, STEPS, COHORTS, OPERATORS)
    )
    hundredths = cohorts[["limit", "peak_over_heaviest", "memory_limit"]].map("{:.2f}".format)
    return (
        pd.DataFrame(
            {
                "Form": losses["what"].map(SHOWN),
                "Batch": losses["size"].map(str),
                "ms": _texts(losses, "milliseconds"),
                "Over decoupled, as here": _texts(losses, "ratio"),
                "Peak memory (MiB)": _peaks(losses),
            }
        ),
        pd.DataFrame(
            {
                "Method": steps["what"],
                "ms": _texts(steps, "milliseconds"),
                f"Over {found.baseline}": _texts(steps, "ratio"),
                **_at_rates(steps),
                "Peak memory (MiB)": _peaks(steps),
            }
        ),
        pd.DataFrame(
            {
                "Members": cohorts["size"].map(str),
                "ms": _texts(cohorts, "milliseconds"),
                "Over its members apart": _texts(cohorts, "ratio"),
                "If the teacher's pass is all that is saved": hundredths["limit"],
                **_at_rates(cohorts),
                "Peak memory (MiB)": _peaks(cohorts),
                "Over its heaviest member alone": hundredths["peak_over_heaviest"],
                "If what members keep is all that is added": hundredths["memory_limit"],
            }
        ),
        pd.DataFrame(
            {
                "Operator": operators["what"],
                "Share of the time (%)": (100 * operators["share"]).map("{:.1f}".format),
            }
        ),
    )


def _at_rates(rows: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "GFLOP": rows["gigaoperations"].map("{:.2f}".format, na_action="ignore").fillna(MISSING),
        "At that rate (ms)": rows["milliseconds_at_rate"]
        .map("{:.3g}".format, na_action="ignore")
        .fillna(MISSING),
    }


def _peaks(rows: pd.DataFrame) -> pd.Series:
    return rows["peak_mebibytes"].map(lambda peak: MISSING if pd.isna(peak) else f"{peak:,.0f}")


def _texts(rows: pd.DataFrame, key: str) -> pd.Series:
    def text(row) -> str:
        values = [row[f"{key}_{part}"] for part in ("median", "low", "high")]
        if pd.isna(values[0]):
            return MISSING
        return "{} [{}, {}]".format(*(f"{value:.3g}" for value in values))

    return rows.apply(text, axis=1)


def in_words(found: Found) -> list[str]:
    """What the tables say, a line each."""
    rows = found.rows
    losses = rows[rows["part"] == LOSSES].set_index(["what", "size"])
    lines = []
    for form in (REFERENCE, FULL, PAIRWISE):
        own = losses.loc[form]
        ratios = ", ".join(
            f"{row['ratio_median']:.2f} at B = {batch}" for batch, row in own.iterrows()
        )
        lines.append(f"{SHOWN[form]}, over the decoupled loss as here: {ratios}")
    both = losses.loc[PAIRWISE].index.intersection(losses.loc[FULL].index)
    largest = max(both)
    pairwise, full = losses.loc[(PAIRWISE, largest)], losses.loc[(FULL, largest)]
    time = pairwise["milliseconds_median"] / full["milliseconds_median"]
    weighed = ""
    if full["peak_mebibytes"]:  # so little is not seen in the resident memory
        memory = pairwise["peak_mebibytes"] / full["peak_mebibytes"]
        weighed = f", {memory:.0f} times its peak memory"
    lines.append(
        f"all pairs over the full loss as here, at B = {largest}: {time:.1f} times its time"
        f"{weighed}"
    )
    steps = rows[(rows["part"] == STEPS) & rows["ratio_median"].notna()]
    dearest = steps.loc[steps["ratio_median"].idxmax()]
    lines.append(
        f"the dearest step, over {found.baseline}: {dearest['what']}, "
        f"{dearest['ratio_median']:.2f} times"
    )
    passes = rows[rows["what"].str.startswith(TEACHER)].set_index("what")["milliseconds_median"]
    first = passes.index[0].rpartition(", ")[2]
    for what, milliseconds in passes.iloc[1:].items():
        lines.append(f"{what}, takes {milliseconds / passes.iloc[0]:.2f} of it in {first}")
    cohorts = rows[rows["part"] == COHORTS]
    last = cohorts.loc[cohorts["size"].idxmax()]
    lines.append(
        f"a cohort of {last['size']} takes {last['ratio_median']:.2f} of the time of its members "
        f"apart; one pass of the teacher for all, and nothing else, would give {last['limit']:.2f}"
    )
    part = last["milliseconds_at_rate"] / last["milliseconds_median"]
    product = rows[rows["part"] == PRODUCTS].iloc[0]
    rate = product["gigaoperations"] / (product["milliseconds_median"] / 1000)
    lines.append(
        f"its products alone, at the {rate:.0f} GFLOP/s of a product of {product['size']}³ here, "
        f"would take {part:.2f} of that time"
    )
    lines.append(
        f"it takes {last['peak_over_heaviest']:.2f} of the memory of its heaviest member alone; "
        "what the others keep between their steps (weights, their averages, the optimizer's "
        f"state), and nothing else, would make it {last['memory_limit']:.2f}"
    )
    return lines
