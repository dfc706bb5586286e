"""The segmentation table: mIoU of each backbone by both protocols, and of each class."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.dense import PATCH_EMBEDDING
from benchmarks.evidence.captions import least_difference
from benchmarks.evidence.document import Document
from benchmarks.evidence.gains import gain_columns
from benchmarks.evidence.words import (
    MISSING,
    against,
    before_and_after,
    from_intervals_alone,
    in_epochs,
    readable_interval,
    readable_number,
    readable_p,
    verdicts,
)
from benchmarks.segmentation import (
    CONTROLS,
    FINE_TUNED,
    FROZEN,
    PROTOCOLS,
    SEGMENTER_FILES,
    Segmentation,
)
from benchmarks.segmentation.cells import SegmenterCell
from benchmarks.segmentation.settings import IGNORED
from manifold.errors import UserError
from manifold.training.records import read_run

NO_REPORT = (
    "No mIoU of the paper is known with evidence, so nothing here stands next to a reported number."
)
TITLES = {FROZEN: "Frozen backbone, linear head", FINE_TUNED: "Fine-tuned, small UPerNet"}

Records = dict[str, dict[int, dict]]  # method: seed: run.json


@dataclass
class Measured:
    """The measured table.

    Attributes:
        rows: one a protocol and backbone.
        seeds: one a protocol, backbone and seed.
        classes: one a protocol, backbone and class.
    """

    rows: pd.DataFrame
    seeds: pd.DataFrame
    classes: pd.DataFrame
    caption: str


def build(study: Segmentation) -> Document:
    """The study's document.

    Raises:
        UserError: a run is missing, or is of another backbone, configuration or data.
    """
    from benchmarks.dense_figure import draw  # slow to import, as are the pictures

    experiment = study.experiment
    found = measure(study)
    baseline = experiment.method_definitions[study.settings.baseline].title
    blocks = [
        (
            title,
            "mIoU (%)",
            *(table[table["protocol"] == key] for table in (found.rows, found.seeds)),
        )
        for key, title in TITLES.items()
    ]
    figures = {"": lambda caption: draw(blocks, "miou", tuple(CONTROLS), baseline, caption)}
    if study.settings.pictures:
        from benchmarks.segmentation.pictures import draw_pictures

        figures["_pictures"] = lambda _: draw_pictures(study)
    shown = {
        TITLES[protocol]: _readable(own, baseline)
        for protocol, own in found.rows.groupby("protocol", sort=False)
    }
    return Document(
        title=f"{study.title}, {experiment.name}",
        caption=found.caption,
        parts=[
            *(part for title, rows in shown.items() for part in (f"## {title}", rows)),
            "" if experiment.claims is None else NO_REPORT,
            "## In words",
            from_intervals_alone(experiment.statistics.confidence),
            in_words(found.rows, baseline, experiment.statistics.confidence),
        ],
        csv={"": found.rows, "_seeds": found.seeds, "_classes": found.classes},
        latex=[(rows, f"{title}. ") for title, rows in shown.items()],
        figures=figures,
    )


def collect(study: Segmentation, protocol: str, data: str) -> Records:
    """The records of a protocol, by backbone and seed.

    Args:
        data: the fingerprint of what was prepared.

    Raises:
        UserError: a run is missing, or is of another backbone, configuration or data.
    """
    records: Records = {}
    for method in study.backbones:
        for seed in study.seeds:
            cell = SegmenterCell(study.experiment, protocol, method, seed)
            path = cell.directory / SEGMENTER_FILES[-1]
            if not path.is_file():
                raise UserError(f"{path}: this segmenter has not been trained; snakemake does it")
            record = read_run(path)
            if record["fingerprint"] != cell.fingerprint(data):
                raise UserError(
                    f"{path} is of another configuration, student or data; delete its folder to "
                    "run it again"
                )
            study.sources.add_job(f"{method}, {protocol}", "train", seed, record)
            records.setdefault(method, {})[seed] = record
    return records


def measure(study: Segmentation) -> Measured:
    """Read the runs and compute the table."""
    data = json.loads(study.found.read_text(encoding="utf-8"))
    rows, seeds, classes = [], [], []
    for protocol in PROTOCOLS:
        records = collect(study, protocol, data["fingerprint"])
        rows += summarise(study, protocol, records)
        seeds += _seed_rows(study, protocol, records)
        classes += _class_rows(protocol, records)
    table = pd.DataFrame(rows)
    caption = _caption(study, data, table, records)
    return Measured(table, pd.DataFrame(seeds), pd.DataFrame(classes), caption)


def summarise(study: Segmentation, protocol: str, records: Records) -> list[dict]:
    """Means, paired gains over the baseline, and Holm's p over the methods of one protocol.

    The controls are not of the family: they are no methods.
    """
    statistics, baseline = study.experiment.statistics, study.settings.baseline
    miou = {
        method: {seed: run["result"]["miou"] for seed, run in runs.items()}
        for method, runs in records.items()
    }
    columns = gain_columns("miou", miou, baseline, statistics.confidence, CONTROLS)
    rows = []
    for method, runs in records.items():
        first = next(iter(runs.values()))
        detectable = None
        if columns[method]["p_holm"] is not None:
            detectable = least_difference(miou[method], miou[baseline], statistics)
        rows.append(
            {
                "protocol": protocol,
                "method": method,
                "title": study.backbones[method],
                **columns[method],
                "gain_detectable": detectable,
                "pixel_accuracy_mean": np.mean(
                    [run["result"]["pixel_accuracy"] for run in runs.values()]
                ),
                **{
                    key: first[key]
                    for key in ("parameters", "backbone_parameters", "trained_parameters")
                },
                "epochs": first["epochs"],
                "images_seen": first["images_seen"],
            }
        )
    return rows


def _seed_rows(study: Segmentation, protocol: str, records: Records) -> list[dict]:
    baseline = records[study.settings.baseline]
    return [
        {
            "protocol": protocol,
            "method": method,
            "seed": seed,
            "miou": run["result"]["miou"],
            "gain": run["result"]["miou"] - baseline[seed]["result"]["miou"],
            "pixel_accuracy": run["result"]["pixel_accuracy"],
            "wall_seconds": run["wall_seconds"],
            "student_sha256": run["configuration"]["student_sha256"],
            "git_commit": run["environment"]["git_commit"],
            "fingerprint": run["fingerprint"],
        }
        for method, runs in records.items()
        for seed, run in runs.items()
    ]


def _class_rows(protocol: str, records: Records) -> list[dict]:
    """The IoU of each class, a mean over the seeds where it is not absent."""
    rows = []
    for method, runs in records.items():
        first = next(iter(runs.values()))
        for number, name in enumerate(first["classes"]):
            values = [run["result"]["iou"][number] for run in runs.values()]
            known = [value for value in values if value is not None]
            rows.append(
                {
                    "protocol": protocol,
                    "method": method,
                    "class": name,
                    "pixels": first["result"]["pixels"][number],
                    "iou_mean": np.mean(known) if known else None,
                    "seeds": len(known),
                }
            )
    return rows


def _caption(study: Segmentation, data: dict, rows: pd.DataFrame, records: Records) -> str:
    experiment, own = study.experiment, study.settings
    confidence = 100 * experiment.statistics.confidence
    train, evaluated = (len(data["examples"][split]) for split in study.splits)
    first = next(iter(next(iter(records.values())).values()))
    absent = sum(not pixels for pixels in first["result"]["pixels"])
    images = (
        "scenes composed of the students' data on photographs"
        if data["kind"] == "scenes"
        else f"the images of {own.data.folder.train.images} and {own.data.folder.test.images}"
    )
    ignored = f"{IGNORED} and 0" if own.data.ignore_zero else f"{IGNORED}"
    return (
        f"Scale {experiment.name}: {experiment.description}. Segmentation on the students of pair "
        f"{own.pair} (recipe {own.recipe}, {in_epochs(own.epochs)}) as backbones; {images}: "
        f"{train:,} to train and {evaluated:,} {study.evaluated} images, "
        f"{len(data['classes'])} classes"
        f"{f', {absent} of them in no {study.evaluated} mask' if absent else ''}. "
        "Frozen: batch norm and a linear layer on the last tokens, "
        f"{in_epochs(own.frozen.epochs)}; fine-tuned: all weights, with a small UPerNet on the "
        f"pyramid, {in_epochs(own.fine_tuned.epochs)}. mIoU (%) from one confusion matrix over all "
        f"{study.evaluated} pixels but the ignored ({ignored}), at the masks' own size; a class "
        "that is neither in the masks nor predicted is left out of the mean, and one that is only "
        "predicted counts as 0. "
        f"n = {len(study.seeds)} paired seeds, {confidence:g} % t intervals; gains are "
        f"seed-by-seed differences to {own.baseline}, p after Holm within each protocol. "
        f"{_detectable(study, rows)}"
        f"Untrained: the student as initialised; {CONTROLS[PATCH_EMBEDDING].lower()}: the same "
        f"with the patch embedding of {own.baseline}'s student. Neither is of Holm's family."
    )


def _detectable(study: Segmentation, rows: pd.DataFrame) -> str:
    """The gain that so many seeds of this spread would tell from zero, protocol by protocol."""
    said = []
    for protocol, own in rows.groupby("protocol", sort=False):
        gains = own["gain_detectable"].dropna()
        if len(gains):
            said.append(
                f"{gains.min():.1f} to {gains.max():.1f} points by method "
                f"(median {gains.median():.1f}) {protocol}"
            )
    if not said:
        return ""
    power = 100 * study.experiment.statistics.power
    return (
        f"The least gain that {power:g} % of such studies would tell from zero, in one comparison, "
        f"at this spread: {', '.join(said)}. "
    )


# ---- as text --------------------------------------------------------------------------------


def _readable(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Backbone": row["title"],
            "n": row["n"],
            "mIoU (%)": readable_interval(row, "miou"),
            f"Gain over {baseline}": readable_interval(row, "gain", "+"),
            "p (Holm)": readable_p(row["p_holm"]),
            "Detectable gain": readable_number(row["gain_detectable"], ".1f"),
            "Pixel accuracy (%)": f"{row['pixel_accuracy_mean']:.2f}",
            "Epochs": row["epochs"],
            "Images seen": f"{row['images_seen']:,}",
            "Parameters": f"{row['parameters']:,}",
            "of them trained": f"{row['trained_parameters']:,}",
        }
        for _, row in rows.iterrows()
    ).fillna(MISSING)


def in_words(rows: pd.DataFrame, baseline: str, confidence: float) -> list[str]:
    """Say what the intervals decide, and what is left of it after Holm's correction."""
    lines = []
    for protocol, own in rows.groupby("protocol", sort=False):
        said = verdicts(own, "gain", *against(baseline))
        words = before_and_after(said, own, baseline, confidence)
        lines.append(f"{TITLES[protocol]}. {words}")
    return lines
