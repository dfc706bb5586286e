"""The table of detection's rehearsal: every student in every detector, and what is projected."""

from typing import Any

import pandas as pd

from benchmarks.detection.rehearsal import PARTS, DetectionRehearsal
from benchmarks.detection.rehearsal.published import (
    FLOPS_TOLERANCE,
    check_published,
    published_row,
)
from benchmarks.evidence.document import Document
from benchmarks.evidence.words import in_epochs, readable_number
from manifold.settings import Experiment, find
from manifold.training.records import read_run


def build(study: DetectionRehearsal) -> Document:
    """The study's document.

    Raises:
        UserError: a detector's parameters or FLOPs are not the published ones.
    """
    rows = measure(study)
    return Document(
        title=f"{study.title}, {study.experiment.name}",
        caption=_caption(rows),
        parts=[
            _readable_runs(rows),
            _projection(study, rows),
            _readable_weights(rows),
            _on_published(study),
        ],
        csv={"": rows},
    )


def measure(study: DetectionRehearsal) -> pd.DataFrame:
    """One row a student and detector: what was found, and what is projected of it."""
    return pd.DataFrame(
        [
            _row(study, read_run(study.record(pair, detector)))
            for pair in study.pairs()
            for detector in study.detection.settings.detectors
        ]
    )


def _row(study: DetectionRehearsal, found: dict[str, Any]) -> dict[str, Any]:
    published = published_row(study, found)
    if published is not None:
        check_published(found, published)
    row = {key: value for key, value in found.items() if not isinstance(value, dict | list)}
    for kind in ("parameters", "gmacs"):
        row |= {f"{kind}_{part}": found[kind][part] for part in (*PARTS, "all")}
    millions, gmacs = (
        None if published is None else published[key] for key in ("parameters_millions", "gmacs")
    )
    return row | {
        "images": " ".join("×".join(map(str, shape[1:])) for shape in found["images"]),
        "frozen": len(found["frozen"]),
        "predictions": sum(found["predictions"].values()),
        "published_parameters_millions": millions,
        "published_gmacs": gmacs,
        "gpu_hours": gpu_hours(study.experiment, found),
    }


def gpu_hours(experiment: Experiment, found: dict[str, Any]) -> float | None:
    """GPU-hours of the schedule, were the detector as fast, per FLOP, as its student's training.

    The student's throughput and FLOPs are timm's published ones; None where nothing is published.
    """
    rates = pd.read_csv(find(experiment.networks)).set_index("network")
    if found["network"] not in rates.index or experiment.pairs[found["pair"]].student.arguments:
        return None
    own = rates.loc[found["network"]]
    gmacs_per_second = own["train_images_per_second"] * own["gmacs"]
    return float(found["schedule_images"] * found["gmacs"]["all"] / gmacs_per_second / 3600)


# ---- as text --------------------------------------------------------------------------------


def _readable_runs(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Student": row["network"],
                "Detector": row["detector"],
                "Image": row["images"],
                "Step here (s)": f"{row['step_seconds']:.1f}",
                "Peak memory here (GiB)": f"{row['peak_memory_gib']:.1f}",
                "Loss": f"{row['loss']:.3f}",
                "Frozen": row["frozen"],
                "Predictions": row["predictions"],
                "Schedule": f"{in_epochs(row['epochs'])}, {row['schedule_steps']:,} steps of "
                f"{row['batch']}",
                "GPU-hours, projected": readable_number(row["gpu_hours"], ",.0f"),
            }
            for _, row in rows.iterrows()
        ]
    )


def _readable_weights(rows: pd.DataFrame) -> pd.DataFrame:
    parts = {part.capitalize(): part for part in (*PARTS, "all")}
    return pd.DataFrame(
        [
            {
                "Student": row["network"],
                "Detector": row["detector"],
                **{
                    f"{title} (M)": f"{row[f'parameters_{part}'] / 1e6:.2f}"
                    for title, part in parts.items()
                },
                "Published (M)": readable_number(row["published_parameters_millions"], ".0f"),
                **{
                    f"{title} (GMAC)": f"{row[f'gmacs_{part}']:.1f}"
                    for title, part in parts.items()
                },
                "Published (GMAC)": readable_number(row["published_gmacs"], ".0f"),
            }
            for _, row in rows.iterrows()
        ]
    )


def _caption(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return (
        "Every student of Table 1 in every detector, by the code of a real run: "
        f"{first['steps']} training step(s) of {len(first['images'].split())} image(s) "
        f"(height×width as shown, before padding) on {first['threads']} thread(s) of "
        f"{first['processor']} ({first['device']}), checkpoint, test, predictions, AP. Weights "
        "are random, stochastic depth is off, and predictions of any score are kept. The loss "
        "was finite, and every parameter that is not frozen got a gradient other than zero. "
        "Memory is the process's largest resident set."
    )


def _projection(study: DetectionRehearsal, rows: pd.DataFrame) -> str:
    experiment = study.experiment
    rates = pd.read_csv(find(experiment.networks))
    projected = rows[rows["gpu_hours"].notna()]["network"]
    hardware = ", ".join(rates[rates["network"].isin(projected)]["hardware"].unique())
    return (
        f"The schedule is the scale's own, on {study.settings.training_images:,} images and "
        f"{experiment.machine.nodes * experiment.machine.processes} process(es). GPU-hours are "
        "a projection at the multiply-accumulates a second that timm's published training "
        f"throughput of the student comes to ({hardware or 'none is published'}; "
        f"{experiment.networks}): no data loading, no matching, no non-maximum suppression, "
        "and the detectors train without AMP, so expect more."
    )


def _on_published(study: DetectionRehearsal) -> str:
    width, height = study.settings.counted_size
    return (
        "GMAC: billions of multiply-accumulates of convolutions and matrix products, one "
        f"image of {width}×{height}, forward; this is what publications of detectors call "
        "FLOPs. Of a two-stage detector, the box branch has as many regions as a test passes "
        "on, and the mask branch 100. "
        f"Published: {study.settings.published}; the rehearsal fails unless parameters agree in "
        f"the published digits and GMAC to {FLOPS_TOLERANCE:.0%} (they are published in whole "
        "billions, and what else is counted differs: norms, activations)."
    )
