"""The rows, words and files of the study of relation maps."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.evidence.captions import least_difference
from benchmarks.evidence.document import Document
from benchmarks.evidence.statistics import (
    HIGHEST,
    holm,
    mean_interval,
    paired_difference,
)
from benchmarks.evidence.words import (
    after_correction,
    in_epochs,
    interval_columns,
    readable_interval,
    readable_number,
    readable_p,
    sentence,
    verdicts,
)
from benchmarks.maps import BATCH, BEFORE_AFTER, FILES, PARTS, RECORD, TEACHER, Maps
from manifold.errors import UserError
from manifold.settings import UNTRAINED, fingerprint
from manifold.training.records import is_complete, read_run

FARTHEST = 4.0  # of two cosines the square of the difference
MOST = {  # what a quantity can be at most
    **dict.fromkeys(PARTS, FARTHEST),
    **dict.fromkeys(("agreement", "agreement_on_errors", "top1"), HIGHEST),
    "kl": np.inf,
}
DIGITS = {**dict.fromkeys(PARTS, 4), "kl": 3}  # behind the point; of percentages two
QUANTITIES = {  # that are compared with the baseline's
    "intra": "Intra-image map distance",
    "agreement": "Agreement (%)",
    "agreement_on_errors": "Agreement where the teacher is wrong (%)",
    "kl": "KL(teacher ‖ student)",
}


@dataclass
class Measured:
    """What was measured.

    Attributes:
        rows: one a network, columns as in ``maps.csv``; the untrained student comes first.
        seeds: one a network and seed.
        layers: one a network, seed and pair of blocks.
    """

    rows: pd.DataFrame
    seeds: pd.DataFrame
    layers: pd.DataFrame
    caption: str


def build(study: Maps) -> Document:
    """Read the records of the job, and compute the document.

    Raises:
        UserError: one is missing, damaged, or of another configuration.
    """
    found = measure(study)

    def batch(caption: str):
        from benchmarks.maps.figure import draw_batch

        return draw_batch(study)

    def before_after(caption: str):
        from benchmarks.maps.figure import draw_before_after

        return draw_before_after(study, found.layers)

    def dots(caption: str):
        from benchmarks.maps.figure import draw

        return draw(found.rows, found.seeds, study.settings.baseline, caption)

    return Document(
        title=f"{study.title}, {study.experiment.name}",
        caption=found.caption,
        parts=[
            "## Maps",
            readable_maps(found.rows),
            "## Agreement",
            readable_agreement(found.rows),
            "## Differences",
            readable_changes(found.rows, study.settings.baseline),
            "## In words",
            in_words(found, study),
        ],
        csv={"": found.rows, "_layers": found.layers, "_seeds": found.seeds},
        latex=[
            (readable_maps(found.rows), "Distances of relation maps to the teacher's. "),
            (readable_agreement(found.rows), "Agreement with the teacher. "),
        ],
        figures={"": dots, BATCH: batch, BEFORE_AFTER: before_after},
    )


# ---- reading ---------------------------------------------------------------------------------


def titles(study: Maps) -> dict[str, str]:
    """The networks of the table by name."""
    definitions = study.experiment.method_definitions
    return {
        UNTRAINED: "Before training",
        **{name: definitions[name].title for name in study.methods},
    }


def read(study: Maps, seed: int) -> dict:
    """The record of a seed.

    Raises:
        UserError: it is missing, damaged, or of another configuration.
    """
    path = study.directory(seed) / RECORD
    if not path.is_file():
        raise UserError(f"{path}: this has not been measured; snakemake does it")
    expected = fingerprint(study.record_identity(seed))
    if not is_complete(path.parent, FILES, RECORD, expected):
        raise UserError(
            f"{path} is of another configuration, teacher or student, or its maps are damaged; "
            "delete its folder to measure again"
        )
    return read_run(path)


def measure(study: Maps) -> Measured:
    ((key, methods),) = study.students().items()
    study.collect(*key, methods)
    seeds, layers, record = [], [], {}
    for seed in study.seeds:
        record = read(study, seed)
        study.sources.add_job("maps", "maps", seed, record)
        made = {
            "fingerprint": record["fingerprint"],
            "git_commit": record["environment"]["git_commit"],
        }
        for method in titles(study):
            own = record["networks"][method]
            blocks = pd.DataFrame(own["layers"])
            numbers = {key: own[key] for key in MOST if key in own}
            parts = blocks[list(PARTS)].mean().to_dict()
            seeds.append({"method": method, "seed": seed, **parts, **numbers, **made})
            layers.append(blocks.assign(method=method, seed=seed))
    found = pd.DataFrame(seeds)
    return Measured(
        rows := summarise(found, study),
        found,
        pd.concat(layers, ignore_index=True),
        _caption(study, record, rows),
    )


# ---- statistics ------------------------------------------------------------------------------


def summarise(seeds: pd.DataFrame, study: Maps) -> pd.DataFrame:
    """Means with intervals, and paired differences: to the baseline, and to before training.

    Holm's family is the methods without the baseline, for each quantity apart. The student before
    training is no method, and not of it.
    """
    statistics, baseline = study.experiment.statistics, study.settings.baseline
    confidence = statistics.confidence
    names = titles(study)
    rows = {name: {"method": name, "title": title} for name, title in names.items()}
    for name, own in seeds.groupby("method", sort=False):
        rows[name]["n"] = len(own)
    for quantity, most in MOST.items():
        by_method = {
            name: dict(zip(own["seed"], own[quantity], strict=True))
            for name, own in seeds.groupby("method", sort=False)
        }
        if seeds[quantity].isna().any():  # no image on which the teacher is wrong
            by_method = {}
        for name, values in by_method.items():
            interval = mean_interval(list(values.values()), confidence, within=(0, most))
            rows[name] |= interval_columns(quantity, interval)
        if quantity not in QUANTITIES or not by_method:
            continue
        others = [name for name in by_method if name not in (baseline, UNTRAINED)]
        changes = {
            name: paired_difference(by_method[name], by_method[baseline], confidence, most)
            for name in others
        }
        adjusted = holm({name: change.p for name, change in changes.items()})
        for name, change in changes.items():
            rows[name] |= {
                **interval_columns(f"{quantity}_change", change),
                f"{quantity}_p_holm": adjusted[name],
                f"{quantity}_detectable": least_difference(
                    by_method[name], by_method[baseline], statistics
                ),
            }
        if quantity == "intra":
            for name in (baseline, *others):
                learnt = paired_difference(
                    by_method[name], by_method[UNTRAINED], confidence, FARTHEST
                )
                rows[name] |= interval_columns("intra_learnt", learnt)
    table = pd.DataFrame(rows.values())
    own = {
        name: paired_difference(
            *(dict(zip(runs["seed"], runs[part], strict=True)) for part in ("other", "intra")),
            confidence,
            FARTHEST,
        )
        for name, runs in seeds.groupby("method", sort=False)
    }
    margins = pd.DataFrame([interval_columns("own_image", own[name]) for name in table["method"]])
    return pd.concat([table, margins], axis=1)


# ---- as text ---------------------------------------------------------------------------------


def readable_maps(rows: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "intra": "Intra-image",
        "inter": "Inter-image",
        "random": "Random tokens",
        "full": "Full map",
        "other": "Intra-image, to another image's map",
    }
    return pd.DataFrame(
        {
            "Student": row["title"],
            "n": row["n"],
            **{title: readable_interval(row, key, digits=4) for key, title in columns.items()},
        }
        for _, row in rows.iterrows()
    )


def readable_agreement(rows: pd.DataFrame) -> pd.DataFrame:
    columns = [key for key in ("agreement", "agreement_on_errors", "kl") if f"{key}_mean" in rows]
    return pd.DataFrame(
        {
            "Student": row["title"],
            "n": row["n"],
            **{
                QUANTITIES[key]: readable_interval(row, key, digits=DIGITS.get(key, 2))
                for key in columns
            },
            "Top-1 (%)": readable_interval(row, "top1"),
        }
        for _, row in rows.iterrows()
    )


def readable_changes(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """A row a method and quantity: the paired difference to the baseline."""
    return pd.DataFrame(
        {
            "Quantity": title,
            "Student": row["title"],
            f"Difference to {baseline}": readable_interval(
                row, f"{key}_change", "+", DIGITS.get(key, 2)
            ),
            "p (Holm)": readable_p(row[f"{key}_p_holm"]),
            "Detectable": readable_number(row[f"{key}_detectable"], f".{DIGITS.get(key, 2)}f"),
        }
        for key, title in QUANTITIES.items()
        if f"{key}_change_mean" in rows
        for _, row in rows[rows[f"{key}_change_mean"].notna()].iterrows()
    )


def in_words(found: Measured, study: Maps) -> list[str]:
    """Say what the intervals decide, without a number."""
    rows, settings = found.rows, study.settings
    baseline = study.experiment.method_definitions[settings.baseline].title
    confidence = study.experiment.statistics.confidence
    learnt = verdicts(
        rows[rows["method"] != UNTRAINED],
        "intra_learnt",
        "further from the teacher's intra-image maps than before training",
        "closer to the teacher's intra-image maps than before training",
        "not told from as far as before training",
    )
    own = verdicts(
        rows,
        "own_image",
        "closer to the teacher's map of the same image than to that of another",
        "further from the teacher's map of the same image than from that of another",
        "the teacher's map of the same image and that of another not told apart",
    )
    lines = [sentence(learnt), sentence(own)]
    for key, quantity in QUANTITIES.items():
        if f"{key}_change_mean" not in rows:
            continue
        own = rows[rows[f"{key}_change_mean"].notna()]
        said = verdicts(
            own,
            f"{key}_change",
            f"more than {baseline}'s",
            f"less than {baseline}'s",
            f"not told from {baseline}'s",
        )
        corrected = own.assign(p_holm=own[f"{key}_p_holm"])
        told = after_correction(corrected, baseline, confidence, "title")
        lines.append(f"{quantity}. {sentence(said)}. Of these {told}")
    return lines


def _caption(study: Maps, record: dict, rows: pd.DataFrame) -> str:
    experiment, maps = study.experiment, study.settings
    statistics, teacher = experiment.statistics, record["networks"][TEACHER]
    apart = np.mean([blocks["other"] for blocks in teacher["layers"]])
    detectable = rows["agreement_detectable"].median() if "agreement_detectable" in rows else None
    seen = (
        f"At this spread, {100 * statistics.power:g} % of such studies would tell a difference in "
        f"agreement of {detectable:.2f} points from zero, in one comparison of the median method. "
        if detectable is not None
        else ""
    )
    return (
        f"Scale {experiment.name}: {experiment.description}. Students of pair {maps.pair}, recipe "
        f"{maps.recipe}, {in_epochs(maps.epochs)}, and each as it was before its first step, "
        f"against their teacher on {record['images']:,} {record['split']} images without "
        f"augmentation. "
        f"Distance: mean squared difference of two relation maps (cosines), a mean over the "
        f"{len(teacher['layers'])} pairs of blocks of layer map {maps.layers}, over "
        f"{record['batches']} whole batches of {record['batch']} images, {record['tokens']} tokens "
        f"each; K = {min(maps.samples, record['batch'] * record['tokens'])} random tokens. The "
        f"teacher's own maps of two different images are {apart:.4f} apart. Agreement: share of "
        f"images on which student and teacher choose one class; the teacher's top-1 is "
        f"{teacher['top1']:.2f} %. KL: of the classes' probabilities at temperature 1, in nats. "
        f"n = {len(study.seeds)} paired seeds, {100 * statistics.confidence:g} % t intervals, "
        "of seeds alone: all see the same images; differences are seed by seed to "
        f"{maps.baseline}, p after Holm within each quantity. "
        f"{seen}"
    ).strip()
