"""The detection table: box and mask AP of a detector on each method's backbone."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from benchmarks.dense import PATCH_EMBEDDING
from benchmarks.detection import CONTROLS, Detection
from benchmarks.detection.data import annotation_file, read_record, title_of
from benchmarks.detection.mixed import refuse_mixed
from benchmarks.evidence.captions import detectable_in_words, least_differences
from benchmarks.evidence.document import Document
from benchmarks.evidence.gains import gain_columns
from benchmarks.evidence.results import Wildcards, unpack_result
from benchmarks.evidence.statistics import gains_over
from benchmarks.evidence.words import (
    MISSING,
    against,
    before_and_after,
    from_intervals_alone,
    in_epochs,
    interval_columns,
    readable_interval,
    readable_p,
    verdicts,
)
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import Experiment

NO_REPORT = (
    "No box or mask AP of the paper is known with evidence, so nothing here stands next to a "
    "reported number."
)
CURVE_WORDS = (
    "AP on the validation scenes, which are on photographs of their own and hold images that no "
    "training saw, along one schedule: mean over the seeds. The learning rate falls "
    "to zero along the schedule, so a curve that is flat at its end says nothing of longer ones."
)
KINDS = {"bbox": "Box AP", "segm": "Mask AP"}


@dataclass
class Measured:
    """The measured table.

    Attributes:
        rows: one a detector, kind of AP and backbone.
        seeds: one a detector, kind of AP, backbone and seed.
        curve: AP on the validation images: one a row of seeds and an epoch.
    """

    rows: pd.DataFrame
    seeds: pd.DataFrame
    curve: pd.DataFrame
    caption: str


def build(study: Detection) -> Document:
    """The study's document.

    Raises:
        UserError: a run is missing, or is of another student or of other data.
    """
    from benchmarks.dense_figure import draw  # slow to import, as are the pictures
    from benchmarks.detection.figure import draw_curve

    experiment = study.experiment
    found = measure(study)
    baseline = experiment.method_definitions[study.settings.baseline].title
    shown = {
        detector: _readable(study, own, baseline)
        for detector, own in found.rows.groupby("detector", sort=False)
    }
    whole = pd.concat([own.assign(Detector=name) for name, own in shown.items()])
    tables = [block for detector, rows in shown.items() for block in (f"## {detector}", rows)]
    by = ["detector", "kind"]
    seeds = dict(list(found.seeds.groupby(by)))
    blocks = [
        (f"{detector}, {KINDS[kind]}", f"{KINDS[kind]} (%)", rows, seeds[detector, kind])
        for (detector, kind), rows in found.rows.groupby(by, sort=False)
    ]
    figures = {"": lambda caption: draw(blocks, "ap", CONTROLS, baseline, caption)}
    if study.settings.pictures:
        from benchmarks.detection.pictures import draw_pictures

        figures["_pictures"] = lambda _: draw_pictures(study)
    csv = {"": found.rows, "_seeds": found.seeds}
    if study.shows_curve:
        csv["_curve"] = found.curve
        figures["_curve"] = lambda caption: draw_curve(found.curve, f"{CURVE_WORDS} {caption}")
    return Document(
        title=f"{study.title}, {experiment.name}",
        caption=found.caption,
        parts=[
            *tables,
            "" if experiment.claims is None else NO_REPORT,
            "## In words",
            from_intervals_alone(experiment.statistics.confidence),
            in_words(study, found.rows, baseline),
        ],
        csv=csv,
        latex=[(whole.fillna(MISSING), "")],
        figures=figures,
    )


def collect(study: Detection, detector: str) -> dict[str, dict[int, dict]]:
    """Return method → seed → run.json of a detector.

    Raises:
        UserError: a run is missing, or is of another student or of other data.
    """
    experiment = study.experiment
    data = {split: sha256(annotation_file(experiment, split)) for split in study.splits}
    network = study.student_model
    records: dict[str, dict[int, dict]] = {}
    for method in study.backbones:
        for seed in study.seeds:
            wildcards = {"detector": detector, "method": method, "seed": seed}
            run, record = study.outputs(wildcards)[-1], study.run_of(wildcards)
            if record is None:
                raise UserError(_not_there(study, wildcards))
            student = study.student_key(method, seed)
            made_from = record["configuration"]
            expected = (student and study.student_digest(student), data)
            backbone = made_from["settings"]["model"]["backbone"]
            if (made_from["student_sha256"], made_from["data"]) != expected or (
                student is None  # and no bytes tell which network it is
                and (backbone["name"], backbone["arguments"]) != (network.name, network.arguments)
            ):
                raise UserError(
                    f"{run} is of another student or of other images; delete its folder to run it "
                    "again"
                )
            study.sources.add_job(f"{detector} on {method}", "train", seed, record)
            study.sources.add_machine(f"{detector} on {method}", seed, record)
            records.setdefault(method, {})[seed] = record
    refuse_mixed(detector, records)
    return records


def _not_there(study: Detection, wildcards: Wildcards) -> str:
    """Why there is no run of a detector, in words."""
    path = study.own_result_path(wildcards)
    if not path.is_file():
        path = study.outputs(wildcards)[-1]
        return f"{path}: this detector has not been trained; snakemake does it"
    found = unpack_result(path)
    others = study.other_inputs(found) or "the student that is here now"
    return (
        f"{path} is of others than {others}, or of another configuration or code, so it does not "
        "count; run snakemake again, which trains this detector"
    )


def measure(study: Detection) -> Measured:
    """Read the runs and compute the table."""
    rows, seeds, curve, epochs = [], [], [], {}
    for detector in study.settings.detectors:
        records = collect(study, detector)
        first = next(iter(records[study.settings.baseline].values()))
        epochs[detector] = first["epochs"]
        for kind in first["result"]:
            rows += _rows(study, detector, kind, records)
            seeds += _seed_rows(study, detector, kind, records)
            curve += curve_rows(study.experiment, detector, kind, records)
    frames = [pd.DataFrame(found) for found in (rows, seeds, curve)]
    return Measured(*frames, _caption(study, epochs, frames[1]))


def curve_rows(experiment: Experiment, detector: str, kind: str, records: dict) -> list[dict]:
    """AP on the validation images, one row a backbone, seed and epoch.

    Args:
        records: of ``collect``.
    """
    return [
        {
            "detector": detector,
            "kind": kind,
            "method": method,
            "title": title_of(experiment, method),
            "seed": seed,
            "epoch": point["epoch"],
            "ap": point[kind],
        }
        for method, runs in records.items()
        for seed, run in runs.items()
        for point in run["validation"]
    ]


def _rows(study: Detection, detector: str, kind: str, records: dict) -> list[dict]:
    """One row a backbone; gains over the baseline's and over each control's, seed by seed.

    Holm's family is the methods of one detector and kind of AP; the controls are no methods.
    """
    experiment, baseline = study.experiment, study.settings.baseline
    confidence = experiment.statistics.confidence
    ap = {
        method: {seed: run["result"][kind]["ap"] for seed, run in runs.items()}
        for method, runs in records.items()
    }
    columns = gain_columns("ap", ap, baseline, confidence, CONTROLS)
    leads = {control: gains_over(control, ap, confidence) for control in study.settings.controls}
    rows = []
    for method, runs in records.items():
        results = pd.DataFrame([run["result"][kind] for run in runs.values()])
        first = next(iter(runs.values()))
        rows.append(
            {
                "detector": detector,
                "kind": kind,
                "method": method,
                "title": title_of(experiment, method),
                **columns[method],
                **_merged(
                    interval_columns(f"over_{control}", lead.get(method))
                    for control, lead in leads.items()
                ),
                "ap50_mean": results["ap50"].mean(),
                "ap75_mean": results["ap75"].mean(),
                "ap_random_classes_mean": results["ap_random_classes"].mean(),
                "parameters": first["parameters"],
                "backbone_parameters": first["backbone_parameters"],
                "epochs": first["epochs"],
                "images_seen": first["images_seen"],
            }
        )
    return rows


def _merged(parts: Iterable[dict]) -> dict:
    return {key: value for part in parts for key, value in part.items()}


def _seed_rows(study: Detection, detector: str, kind: str, records: dict) -> list[dict]:
    baseline = records[study.settings.baseline]
    return [
        {
            "detector": detector,
            "kind": kind,
            "method": method,
            "seed": seed,
            **run["result"][kind],
            "gain": run["result"][kind]["ap"] - baseline[seed]["result"][kind]["ap"],
            "wall_seconds": run["wall_seconds"],
            "student_sha256": run["configuration"]["student_sha256"],
            "git_commit": run["environment"]["git_commit"],
            "fingerprint": run["fingerprint"],
        }
        for method, runs in records.items()
        for seed, run in runs.items()
    ]


def _caption(study: Detection, epochs: dict[str, int], seeds: pd.DataFrame) -> str:
    experiment = study.experiment
    detection, record = experiment.detection, read_record(experiment)
    budgets = ", ".join(f"{detector} {in_epochs(count)}" for detector, count in epochs.items())
    train, evaluated = (record["splits"][split] for split in ("train", study.evaluated))
    images = (
        "scenes composed of the students' data on photographs"
        if record["kind"] == "scenes"
        else f"the images of {detection.data.folder.train_annotations}"
    )
    boxes = "" if detection.data.masks else " Boxes alone: Mask R-CNN has no mask branch."
    return (
        f"Scale {experiment.name}: detectors of mmdet on the students of pair {detection.pair} "
        f"(recipe {detection.recipe}, {in_epochs(detection.epochs)}) as backbones; {images}: "
        f"{train['images']:,} training and {evaluated['images']:,} {study.evaluated} images, "
        f"{evaluated['annotations']:,} objects in the latter; {budgets}. AP "
        "(%, COCO, IoU 0.5 to 0.95) of the last epoch. "
        f"n = {len(study.seeds)} paired seeds, "
        f"{100 * experiment.statistics.confidence:g} % t intervals; gains are seed-by-seed "
        f"differences to {detection.baseline}, p after Holm over the methods of one detector and "
        "one kind of AP; the controls are of no family, and gains over them are not corrected. "
        f"{_detectable(study, seeds)}"
        "Random classes: the AP of the same boxes, their classes drawn at random."
        + boxes
        + (f" {_on_the_patch_embedding(study)}" if PATCH_EMBEDDING in study.backbones else "")
    )


def _detectable(study: Detection, seeds: pd.DataFrame) -> str:
    """What the gains in AP would have to be, over all detectors and kinds."""
    statistics = study.experiment.statistics
    titles = {method: title_of(study.experiment, method) for method in study.backbones}
    named = seeds.assign(kind=seeds["kind"].map(KINDS))
    least = least_differences(
        *(named, "ap", study.settings.baseline, titles, statistics), ("detector", "kind")
    )
    return detectable_in_words(least, statistics, of="backbone, detector and kind of AP")


def _on_the_patch_embedding(study: Detection) -> str:
    return (
        f"{title_of(study.experiment, PATCH_EMBEDDING)}: all else, positions and blocks too, has "
        "the random weights of the same seed."
    )


# ---- as text --------------------------------------------------------------------------------


def _readable(study: Detection, rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A detector's rows as text: one a backbone, every kind of AP side by side."""
    shown = []
    for _, own in rows.groupby("method", sort=False):
        first = own.iloc[0]
        cells = {"Backbone": first["title"], "n": first["n"]}
        for _, row in own.iterrows():
            kind = KINDS[row["kind"]]
            cells |= {
                f"{kind} (%)": readable_interval(row, "ap"),
                f"{kind}: gain over {baseline}": readable_interval(row, "gain", "+"),
                f"{kind}: p (Holm)": readable_p(row["p_holm"]),
                **{
                    f"{kind}: gain over {_inside(study, control)}": readable_interval(
                        row, f"over_{control}", "+"
                    )
                    for control in study.settings.controls
                },
                f"{kind}50": f"{row['ap50_mean']:.2f}",
                f"{kind}, random classes": f"{row['ap_random_classes_mean']:.2f}",
            }
        cells |= {
            "Epochs": first["epochs"],
            "Images seen": f"{first['images_seen']:,}",
            "Parameters": f"{first['parameters']:,}",
            "of the backbone": f"{first['backbone_parameters']:,}",
        }
        shown.append(cells)
    return pd.DataFrame(shown)


def _inside(study: Detection, control: str) -> str:
    """A control's title inside a sentence."""
    title = title_of(study.experiment, control)
    return title[0].lower() + title[1:]


def in_words(study: Detection, rows: pd.DataFrame, baseline: str) -> list[str]:
    """Say what the intervals decide, and what is left of it after Holm's correction."""
    others = {"gain": baseline}
    others |= {f"over_{control}": _inside(study, control) for control in study.settings.controls}
    confidence, lines = study.experiment.statistics.confidence, []
    for (detector, kind), own in rows.groupby(["detector", "kind"], sort=False):
        said = {}
        for key, other in others.items():
            said |= verdicts(own, key, *against(other))
        words = before_and_after(said, own, baseline, confidence)
        lines.append(f"{detector}, {KINDS[kind]}. {words}")
    return lines
