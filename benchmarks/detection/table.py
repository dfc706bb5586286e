"""The detection table: box and mask AP of a detector on each method's backbone."""

from dataclasses import dataclass

import pandas as pd

from benchmarks.detection import RANDOM, Detection
from benchmarks.detection.data import (
    RANDOM_TITLE,
    SPLITS,
    annotation_file,
    read_record,
    title_of,
)
from benchmarks.evidence.document import Document
from benchmarks.evidence.statistics import gains_over, holm, mean_interval
from benchmarks.evidence.words import (
    MISSING,
    against,
    interval_columns,
    readable_interval,
    readable_p,
    sentence,
    verdicts,
)
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import Experiment
from manifold.training.records import read_run

NO_REPORT = (
    "No box or mask AP of the paper is known with evidence, so nothing here stands next to a "
    "reported number."
)
KINDS = {"bbox": "Box AP", "segm": "Mask AP"}


@dataclass
class Measured:
    """The measured table.

    Attributes:
        rows: one a detector, kind of AP and backbone.
        seeds: one a detector, kind of AP, backbone and seed.
    """

    rows: pd.DataFrame
    seeds: pd.DataFrame
    caption: str


def build(study: Detection) -> Document:
    """The study's document.

    Raises:
        UserError: a run is missing, or is of another student or of other data.
    """
    from benchmarks.detection.figure import draw  # slow to import, as are the pictures

    experiment = study.experiment
    found = measure(study)
    baseline = experiment.method_definitions[study.settings.baseline].title
    shown = {
        detector: _readable(own, baseline)
        for detector, own in found.rows.groupby("detector", sort=False)
    }
    whole = pd.concat([own.assign(Detector=name) for name, own in shown.items()])
    tables = [block for detector, rows in shown.items() for block in (f"## {detector}", rows)]
    figures = {"": lambda caption: draw(found.rows, found.seeds, baseline, caption)}
    if study.settings.pictures:
        from benchmarks.detection.pictures import draw_pictures

        figures["_pictures"] = lambda _: draw_pictures(study)
    return Document(
        title=f"{study.title}, {experiment.name}",
        caption=found.caption,
        parts=[
            *tables,
            "" if experiment.claims is None else NO_REPORT,
            "## In words",
            _in_words(found.rows, baseline),
        ],
        csv={"": found.rows, "_seeds": found.seeds},
        latex=[(whole.fillna(MISSING), "")],
        figures=figures,
    )


def collect(study: Detection, detector: str) -> dict[str, dict[int, dict]]:
    """Return method → seed → run.json of a detector.

    Raises:
        UserError: a run is missing, or is of another student or of other data.
    """
    experiment = study.experiment
    data = {split: sha256(annotation_file(experiment, split)) for split in SPLITS}
    records: dict[str, dict[int, dict]] = {}
    for method in study.backbones:
        for seed in study.seeds:
            path = study.directory(detector, method, seed) / "run.json"
            if not path.is_file():
                raise UserError(f"{path}: this detector has not been trained; snakemake does it")
            record, student = read_run(path), study.student(method, seed)
            made_from = record["configuration"]
            expected = (student and sha256(student), data)
            if (made_from["student_sha256"], made_from["data"]) != expected:
                raise UserError(
                    f"{path} is of another student or of other scenes; delete its folder to run "
                    "it again"
                )
            study.sources.add_job(f"{detector} on {method}", "train", seed, record)
            records.setdefault(method, {})[seed] = record
    return records


def measure(study: Detection) -> Measured:
    """Read the runs and compute the table."""
    rows, seeds, epochs = [], [], {}
    for detector in study.settings.detectors:
        records = collect(study, detector)
        first = next(iter(records[RANDOM].values()))
        epochs[detector] = first["epochs"]
        for kind in first["result"]:
            rows += _rows(study.experiment, detector, kind, records)
            seeds += _seed_rows(detector, kind, records)
    return Measured(pd.DataFrame(rows), pd.DataFrame(seeds), _caption(study, epochs))


def _rows(experiment: Experiment, detector: str, kind: str, records: dict) -> list[dict]:
    """One row a backbone; gains over the baseline's and over random weights, seed by seed."""
    confidence, baseline = experiment.statistics.confidence, experiment.detection.baseline
    ap = {
        method: {seed: run["result"][kind]["ap"] for seed, run in runs.items()}
        for method, runs in records.items()
    }
    gains, over_random = (gains_over(other, ap, confidence) for other in (baseline, RANDOM))
    adjusted = holm({method: gain.p for method, gain in gains.items()})
    rows = []
    for method, runs in records.items():
        mean, gain = mean_interval(list(ap[method].values()), confidence), gains.get(method)
        lead = over_random.get(method)
        results = pd.DataFrame([run["result"][kind] for run in runs.values()])
        first = next(iter(runs.values()))
        rows.append(
            {
                "detector": detector,
                "kind": kind,
                "method": method,
                "title": title_of(experiment, method),
                "n": mean.n,
                **interval_columns("ap", mean),
                **interval_columns("gain", gain),
                "p_holm": adjusted.get(method),
                **interval_columns("over_random", lead),
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


def _seed_rows(detector: str, kind: str, records: dict) -> list[dict]:
    return [
        {
            "detector": detector,
            "kind": kind,
            "method": method,
            "seed": seed,
            **run["result"][kind],
            "wall_seconds": run["wall_seconds"],
            "student_sha256": run["configuration"]["student_sha256"],
            "git_commit": run["environment"]["git_commit"],
            "fingerprint": run["fingerprint"],
        }
        for method, runs in records.items()
        for seed, run in runs.items()
    ]


def _caption(study: Detection, epochs: dict[str, int]) -> str:
    experiment = study.experiment
    detection, record = experiment.detection, read_record(experiment)
    budgets = ", ".join(f"{detector} {count} epochs" for detector, count in epochs.items())
    train, test = (record["splits"][split] for split in SPLITS)
    images = (
        "scenes composed of the students' data on photographs"
        if record["kind"] == "scenes"
        else f"the images of {detection.data.folder.train_annotations}"
    )
    boxes = "" if detection.data.masks else " Boxes alone: Mask R-CNN has no mask branch."
    return (
        f"Scale {experiment.name}: detectors of mmdet on the students of pair {detection.pair} "
        f"(recipe {detection.recipe}, {detection.epochs} epochs) as backbones; {images}: "
        f"{train['images']:,} training and {test['images']:,} test images, "
        f"{test['annotations']:,} objects in the latter; {budgets}. AP (%, COCO, IoU 0.5 to 0.95) "
        "of the last epoch. "
        f"n = {len(study.seeds)} paired seeds, "
        f"{100 * experiment.statistics.confidence:g} % t intervals; gains are seed-by-seed "
        f"differences to {detection.baseline}, p after Holm over the backbones of one detector and "
        "one kind of AP. Random classes: the AP of the same boxes, their classes drawn at random."
        + boxes
    )


# ---- as text --------------------------------------------------------------------------------


def _readable(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
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
                f"{kind}: gain over {RANDOM_TITLE.lower()}": readable_interval(
                    row, "over_random", "+"
                ),
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


def _in_words(rows: pd.DataFrame, baseline: str) -> list[str]:
    """Say which gains the intervals decide, without a number."""
    lines = []
    for (detector, kind), own in rows.groupby(["detector", "kind"], sort=False):
        said = {}
        for key, other in (("gain", baseline), ("over_random", RANDOM_TITLE.lower())):
            said |= verdicts(own, key, *against(other))
        lines.append(f"{detector}, {KINDS[kind]}. {sentence(said)}")
    return lines
