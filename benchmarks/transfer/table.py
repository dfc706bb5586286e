"""The transfer study: every student on other data sets, with gains over soft KD and intervals."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.evidence.captions import detectable_in_words, least_differences
from benchmarks.evidence.document import Document
from benchmarks.evidence.gains import gain_columns
from benchmarks.evidence.words import (
    against,
    before_and_after,
    from_intervals_alone,
    in_epochs,
    readable_interval,
    readable_p,
    verdicts,
)
from benchmarks.transfer import (
    FINE_TUNING,
    FINE_TUNING_METHOD,
    FIXED,
    MEAN,
    PROBE_FILES,
    Transfer,
)
from benchmarks.transfer.cells import ALL, fine_tuning_cell, probes_identity
from benchmarks.transfer.students import Student, rows_of, students_of
from manifold.errors import UserError
from manifold.settings import UNTRAINED, fingerprint
from manifold.training.records import read_run

NO_REPORT = (
    "No number of the paper stands here: none of its transfer results is known with evidence."
)
PROTOCOLS = {
    "linear-probe": "Linear probe",
    "k-nn": "k-NN",
    "fine-tuning": "Fine-tuning",
    f"linear-probe{FIXED}": "Linear probe, C not chosen",
    f"k-nn{FIXED}": "k-NN, k not chosen",
}
ENDS = ("smallest", "largest")  # of the grid that a number was chosen from
KEY = ["data", "protocol", "shots"]  # what a comparison of the methods is made within


@dataclass
class Measured:
    """The measured study.

    Attributes:
        rows: one a data set (and their mean), protocol, number of shots and method.
        seeds: one a row's seed.
        sizes: data set: images of each split and number of classes.
    """

    rows: pd.DataFrame
    seeds: pd.DataFrame
    sizes: dict[str, dict]
    caption: str


def build(study: Transfer) -> Document:
    """The study's document.

    Raises:
        UserError: a record is missing, damaged, or of another configuration or student.
    """
    from benchmarks.transfer.figure import draw  # slow to import

    found = measure(study)
    baseline = study.experiment.method_definitions[study.settings.baseline].title
    return Document(
        title=f"{study.title}, {study.experiment.name}",
        caption=found.caption,
        parts=_parts_of_text(found, study, baseline),
        csv={"": found.rows, "_seeds": found.seeds},
        latex=[
            (_readable(rows, baseline), f"{_heading(found, name)}, {title}. ")
            for name, title, rows in _parts(found)
        ],
        figures={"": lambda caption: draw(found.rows, found.seeds, baseline, PROTOCOLS, caption)},
    )


def measure(study: Transfer) -> Measured:
    """Read the records and compute the table.

    Raises:
        UserError: a record is missing, damaged, or of another configuration or student.
    """
    measured, sizes = [], {}
    for seed in study.seeds:
        for student in students_of(study, seed):
            for name, entry in study.settings.data.items():
                if entry.protocols != [FINE_TUNING]:
                    record = _read_probes(study, name, student, seed)
                    measured += _probe_rows(record)
                    sizes[name] = _sizes(record)
                if FINE_TUNING in entry.protocols:
                    record = _read_fine_tuning(study, name, student, seed)
                    measured.append(_fine_tuning_row(record, name))
                    sizes.setdefault(name, _sizes(record))
    seeds = summarise_seeds(pd.DataFrame(measured), study)
    return Measured(summarise(seeds, study), seeds, sizes, _caption(study, seeds))


def _read(path: Path, expected: str) -> dict:
    if not path.is_file():
        raise UserError(f"{path}: this has not been run; snakemake makes it")
    record = read_run(path)
    if record["fingerprint"] != expected:
        raise UserError(
            f"{path} is of another configuration or student; delete its folder to run it again"
        )
    return record


def _read_probes(study: Transfer, name: str, student: Student, seed: int) -> dict:
    path = study.directory(name, student.method, seed) / PROBE_FILES[-1]
    record = _read(path, fingerprint(probes_identity(study, name, student, seed)))
    study.sources.add_job(f"probes of {student.method} on {name}", "probes", seed, record, name)
    return record


def _read_fine_tuning(study: Transfer, name: str, student: Student, seed: int) -> dict:
    cell = fine_tuning_cell(study, name, student, seed)
    record = _read(cell.directory / "run.json", cell.fingerprint)
    row = f"{student.method}, fine-tuned on {name}"
    # Which of its images are held out differs from the probes, and so may the digest.
    study.sources.add(row, FINE_TUNING_METHOD, seed, record, f"{name}, fine-tuned")
    return record


def _probe_rows(record: dict) -> list[dict]:
    return [
        {
            **{key: record[key] for key in ("data", "method", "seed")},
            "protocol": result["protocol"],
            "shots": str(result["shots"]),
            "top1": result["top1"],
            "chosen": " ".join(f"{fit['chosen']:g}" for fit in result["fits"]),
            **{f"at_{end}": _choices_at(end, result["fits"]) for end in ENDS},
            "choices": sum(fit["grid"][0] < fit["grid"][1] for fit in result["fits"]),
            "most_iterations": max(fit.get("iterations", 0) for fit in result["fits"]),
            "git_commit": record["environment"]["git_commit"],
            "fingerprint": record["fingerprint"],
        }
        for result in record["results"]
    ]


def _choices_at(end: str, fits: list[dict]) -> int:
    """How many choices fell on an end of the grid that they were among; one number is no choice."""
    return sum(
        fit["chosen"] == fit["grid"][ENDS.index(end)]
        for fit in fits
        if fit["grid"][0] < fit["grid"][1]
    )


def _fine_tuning_row(record: dict, name: str) -> dict:
    return {
        "data": name,
        **{key: record[key] for key in ("method", "seed")},
        "protocol": "fine-tuning",
        "shots": ALL,
        "top1": record["result"]["top1"],
        "git_commit": record["environment"]["git_commit"],
        "fingerprint": record["fingerprint"],
    }


def _sizes(record: dict) -> dict:
    return {**record["splits"], "classes": len(record["classes"])}


# ---- statistics ------------------------------------------------------------------------------


def summarise_seeds(measured: pd.DataFrame, study: Transfer) -> pd.DataFrame:
    """Add the mean over the data sets, and the gain over the baseline, to every seed's numbers.

    The mean is over the data sets that have all of them: where one lacks a protocol or a number of
    shots, there is none.
    """
    names = list(study.settings.data)
    joined = [measured]
    if len(names) > 1:
        group = measured.groupby(["protocol", "shots", "method", "seed"], sort=False)
        means = group["top1"].agg(["mean", "size"]).reset_index()
        means = means[means["size"] == len(names)].drop(columns="size")
        joined.append(means.rename(columns={"mean": "top1"}).assign(data=MEAN))
    seeds = pd.concat(joined, ignore_index=True)
    baseline = seeds[seeds["method"] == study.settings.baseline]
    baseline = baseline.set_index([*KEY, "seed"])["top1"]
    reference = baseline.reindex(pd.MultiIndex.from_frame(seeds[[*KEY, "seed"]])).to_numpy()
    return seeds.assign(gain=seeds["top1"] - reference)


def summarise(seeds: pd.DataFrame, study: Transfer) -> pd.DataFrame:
    """Means, paired gains and Holm's p, one family for each data set, protocol and shots.

    The untrained student is not of the family: it is no method.
    """
    transfer, confidence = study.settings, study.experiment.statistics.confidence
    titles = rows_of(study)
    order = {name: place for place, name in enumerate([MEAN, *transfer.data])}
    rows = []
    for key, own in sorted(seeds.groupby(KEY, sort=False), key=lambda group: order[group[0][0]]):
        top1 = {
            method: dict(zip(runs["seed"], runs["top1"], strict=True))
            for method, runs in own.groupby("method", sort=False)
        }
        columns = gain_columns("top1", top1, transfer.baseline, confidence, [UNTRAINED])
        names = dict(zip(KEY, key, strict=True))
        rows += [
            {**names, "method": method, "title": title, **columns[method]}
            for method, title in titles.items()
        ]
    return pd.DataFrame(rows)


def _detectable(study: Transfer, seeds: pd.DataFrame) -> str:
    """What the gains would have to be, over all data sets, protocols and numbers of images."""
    statistics = study.experiment.statistics
    titles = {m: title for m, title in rows_of(study).items() if m != UNTRAINED}
    named = seeds.assign(
        data=seeds["data"].replace(MEAN, "mean over the data sets"),
        protocol=seeds["protocol"].map(PROTOCOLS),
        shots=seeds["shots"].map(_shots_title),
    )
    least = least_differences(*(named, "top1", study.settings.baseline, titles, statistics), KEY)
    return detectable_in_words(
        least, statistics, of="method, data set, protocol and number of images"
    )


def _caption(study: Transfer, seeds: pd.DataFrame) -> str:
    experiment, transfer = study.experiment, study.settings
    used = {protocol for entry in transfer.data.values() for protocol in entry.protocols}
    tuned_on = "all training images"
    if experiment.evaluation_split == "validation":
        tuned_on = "the training images that are not held out"
    words = {
        "linear-probe": "Linear probe: logistic regression on frozen features.",
        "k-nn": "k-NN: cosine similarity s, votes "
        f"exp(s / {transfer.nearest_neighbours.temperature:g}).",
        "fine-tuning": f"Fine-tuning: all weights, on {tuned_on}; of the untrained student, "
        "training from scratch.",
    }
    choices = (
        "C and k are chosen on held-out training images; with all images, the fit is then made on "
        f"these too. Few shots: the mean of {transfer.draws} draws a seed, the same for every "
        "method; C and k are chosen on the same held-out images, which are many more labels than "
        f"the shots, and once more not chosen: C = {transfer.few_shot.regularisation:g}, "
        f"k = {transfer.few_shot.neighbours}. "
    )
    weighs = "The mean weighs every data set alike, whatever the number of its test images. "
    return (
        f"Scale {experiment.name}: {experiment.description}. Students of pair {transfer.pair}, "
        f"recipe {transfer.recipe}, {in_epochs(transfer.epochs)}, on other data sets: top-1 (%) on "
        f"{experiment.evaluation_split} images. n = {len(study.seeds)} paired seeds, "
        f"{100 * experiment.statistics.confidence:g} % t intervals; gains are seed-by-seed "
        f"differences to {transfer.baseline}, p after Holm within each data set, protocol and "
        f"number of images. {_detectable(study, seeds)}{weighs if len(transfer.data) > 1 else ''}"
        f"{choices if used != {'fine-tuning'} else ''}"
        f"{' '.join(text for protocol, text in words.items() if protocol in used)} "
        "Untrained: the student as initialised."
    )


# ---- as text --------------------------------------------------------------------------------


def _parts(table: Measured) -> list[tuple[str, str, pd.DataFrame]]:
    """The rows of each data set and protocol, with the data set's name and protocol's title."""
    return [
        (name, title, own[own["protocol"] == protocol])
        for name, own in table.rows.groupby("data", sort=False)
        for protocol, title in PROTOCOLS.items()
        if (own["protocol"] == protocol).any()
    ]


def _heading(table: Measured, name: str) -> str:
    if name == MEAN:
        return "Mean over the data sets"
    sizes = table.sizes[name]
    return (
        f"{name}: {sizes['classes']} classes, {sizes['train'] + sizes['validation']:,} images to "
        f"train ({sizes['validation']:,} of them held out for choices), {sizes['test']:,} to test"
    )


def _shots_title(shots: str) -> str:
    return "all images" if shots == ALL else f"{shots} a class"


def _readable(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A row a method; top-1 and gain stand side by side for each number of images."""
    columns: dict[str, list[str]] = {"Method": list(dict.fromkeys(rows["title"]))}
    for shots, own in rows.groupby("shots", sort=False):
        columns[f"Top-1, {_shots_title(shots)}"] = [
            readable_interval(row, "top1") for _, row in own.iterrows()
        ]
        columns[f"Gain over {baseline}, {_shots_title(shots)}"] = [
            readable_interval(row, "gain", "+")
            + ("" if pd.isna(row["p_holm"]) else f", p {readable_p(row['p_holm'])}")
            for _, row in own.iterrows()
        ]
    return pd.DataFrame(columns)


def _parts_of_text(
    table: Measured, study: Transfer, baseline: str
) -> list[str | list[str] | pd.DataFrame]:
    """What stands below the caption."""
    experiment = study.experiment
    sections = [
        "" if experiment.claims is None else NO_REPORT,
        "p follows a gain after Holm's correction over the methods of its column; the untrained "
        "student is not among them.",
    ]
    shown = None
    for name, title, rows in _parts(table):
        if name != shown:
            sections.append(f"## {_heading(table, name)}")
            shown = name
        sections += [f"### {title}", _readable(rows, baseline)]
    confidence = experiment.statistics.confidence
    is_mean = table.rows["data"] == MEAN
    by_data = [("", table.rows[is_mean]), (" by data set", table.rows[~is_mean])]
    # Without a mean, data sets are all that there is to say.
    for title, rows in by_data if is_mean.any() else [("", table.rows)]:
        if len(rows):
            words = in_words(rows, baseline, confidence)
            sections += [f"## In words{title}", from_intervals_alone(confidence), words]
    sections += filter(
        None, (_words_on_iterations(table.seeds, study), _words_on_edges(table.seeds))
    )
    return sections


def in_words(rows: pd.DataFrame, baseline: str, confidence: float) -> list[str]:
    """Say what the intervals decide, and what is left of it after Holm's correction.

    One line a data set, protocol and number of images.
    """
    lines = []
    for (name, protocol, shots), own in rows.groupby(KEY, sort=False):
        said = verdicts(own, "gain", *against(baseline))
        where = "mean over the data sets" if name == MEAN else name
        words = before_and_after(said, own, baseline, confidence)
        lines.append(f"{where}; {PROTOCOLS[protocol]}, {_shots_title(shots)}. {words}")
    return lines


def _words_on_edges(seeds: pd.DataFrame) -> str:
    """How often a choice fell on an end of its grid, beyond which a better one may lie."""
    said = []
    for protocol in ("linear-probe", "k-nn"):
        own = seeds[(seeds["protocol"] == protocol) & (seeds["data"] != MEAN)]
        if choices := int(own["choices"].sum()):
            low, high = (int(own[f"at_{end}"].sum()) for end in ENDS)
            said.append(
                f"{PROTOCOLS[protocol]}: of {choices} choices {low} fell on the smallest number of "
                f"their grid, and {high} on the largest (of k, that is at most the images)."
            )
    return " ".join(said)


def _words_on_iterations(seeds: pd.DataFrame, study: Transfer) -> str:
    most = study.settings.linear_probe.iterations
    linear = seeds[(seeds["protocol"] == "linear-probe") & (seeds["data"] != MEAN)]
    stopped = int((linear["most_iterations"] >= most).sum())
    if not stopped:
        return ""
    return (
        f"{stopped} of {len(linear)} linear probes (a method, seed, data set and number of images) "
        f"hold a fit that ended at {most:,} iterations of L-BFGS, before its tolerance."
    )
