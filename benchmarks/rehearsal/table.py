"""The tables of a rehearsal: every pair and recipe, what is projected of it, and every network."""

import pandas as pd

from benchmarks.evidence.document import Document
from benchmarks.evidence.words import in_epochs, readable_number
from benchmarks.rehearsal import Rehearsal
from benchmarks.rehearsal.networks import check_published, networks
from benchmarks.rehearsal.training import GIB
from manifold.settings import Experiment
from manifold.training.cells import student_model
from manifold.training.records import read_run

KEPT = (
    *("pair", "recipe", "steps", "resumed_at", "peak_memory_gib", "device", "processes"),
    "duplicate_share",
)


def gpu_hours(experiment: Experiment, pair: str, weighed: pd.DataFrame) -> float | None:
    """GPU-hours of one seed's cohort on the published hardware; None where nothing is published.

    Per image one teacher pass at timm's measured inference rate and, for each method, one training
    step at its measured training rate: no losses, no data loading, no evaluation.
    """
    rates = weighed.set_index("network")
    section = experiment.pairs[pair]
    seconds = 1 / rates.loc[section.teacher.model.name, "published_infer_images_per_second"]
    for method in experiment.methods_of(pair):
        definition = experiment.method_definitions[method]
        student = student_model(section, pair, method, definition)
        seconds += 1 / rates.loc[student.name, "published_train_images_per_second"]
    images = experiment.table1.epochs * experiment.rehearsal.training_images
    hours = images * float(seconds) / 3600
    return None if pd.isna(hours) else hours


def gpu_memory(experiment: Experiment, recipe: str, found: dict) -> float:
    """Bytes of a process at the scale's own batch and cohorts: its state, and the largest graph.

    Memory holds one member's graph at a time. Workspaces, fragmentation and the caching of the
    allocator are not in it.
    """
    machine, section = experiment.machine, experiment.recipes[recipe]
    shards = max(1, section.shards // (machine.nodes * machine.processes))
    together = machine.shards_per_pass or shards
    images = together * section.batch_size // section.shards
    return found["teacher_bytes"] + max(
        sum(found["state_bytes"][method] for method in cohort)
        + images * max(found["activation_bytes"][method] for method in cohort)
        for cohort in experiment.in_cohorts(experiment.methods_of(found["pair"]))
    )


def build(study: Rehearsal) -> Document:
    """The study's document.

    Raises:
        UserError: a network's parameters or FLOPs are not the published ones.
    """
    weighed = networks(study.experiment)
    check_published(weighed)
    runs = measure(study, weighed)
    return Document(
        title=f"Rehearsal of {study.experiment.name}",
        caption=_caption(study, runs),
        parts=[
            _readable_runs(runs),
            _projection(study, weighed),
            _readable_networks(weighed),
        ],
        csv={"": runs, "_networks": weighed},
    )


def measure(study: Rehearsal, weighed: pd.DataFrame) -> pd.DataFrame:
    """One row a pair and recipe: what was rehearsed, and what is projected of it.

    Args:
        weighed: the networks of the pairs.
    """
    experiment, rows = study.experiment, []
    for pair in study.pairs():
        for recipe in study.recipes():
            found = read_run(study.record(pair, recipe))
            rows.append(
                {key: found[key] for key in KEPT}
                | {
                    "methods": len(found["methods"]),
                    **_slowest_and_fastest(found["methods"]),
                    "epochs": experiment.table1.epochs,
                    "gpu_memory_gib": gpu_memory(experiment, recipe, found) / GIB,
                    "gpu_hours_per_seed": gpu_hours(experiment, pair, weighed),
                }
            )
    return pd.DataFrame(rows)


def _slowest_and_fastest(methods: dict[str, dict]) -> dict[str, float]:
    rates = [method["images_per_second"] for method in methods.values()]
    return {"images_per_second_slowest": min(rates), "images_per_second_fastest": max(rates)}


# ---- as text --------------------------------------------------------------------------------


def _readable_runs(runs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Pair": row["pair"],
                "Recipe": row["recipe"],
                "Methods": row["methods"],
                "Steps": row["steps"],
                "Killed after, resumed at": row["resumed_at"],
                "Images/s here": f"{row['images_per_second_slowest']:.2g} to "
                f"{row['images_per_second_fastest']:.2g}",
                "Peak memory here (GiB)": f"{row['peak_memory_gib']:.1f}",
                "Memory a process, projected (GiB)": f"{row['gpu_memory_gib']:.1f}",
                "GPU-hours a seed, projected": readable_number(row["gpu_hours_per_seed"], ",.0f"),
            }
            for _, row in runs.iterrows()
        ]
    )


def _readable_networks(weighed: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Network": row["network"],
                "Parameters": f"{row['parameters']:,}",
                "Published (M)": readable_number(row["published_parameters_millions"], ".2f"),
                "GMAC an image": f"{row['gmacs']:.3g}",
                "Published GMAC": readable_number(row["published_gmacs"], ".2f"),
            }
            for _, row in weighed.iterrows()
        ]
    )


def _caption(study: Rehearsal, runs: pd.DataFrame) -> str:
    small, size, first = study.settings, study.experiment.data.image_size, runs.iloc[0]
    return (
        f"Every pair and recipe at {size}×{size} pixels and {small.classes} classes, teacher with "
        f"random weights, Table 1's methods and the rehearsal's own: {small.steps} steps of "
        f"{small.batch_size} images in {small.shards} shards on {first['processes']} "
        f"process(es) ({first['device']}); one process killed after step {small.killed_after}, "
        "resumed from the checkpoint, evaluated. "
        "Images/s are of one method with its teacher's pass, the slowest to the fastest; memory is "
        f"the processes' together, {small.cohort_size} methods at a time, without data loading "
        "workers."
    )


def _projection(study: Rehearsal, weighed: pd.DataFrame) -> str:
    experiment, small = study.experiment, study.settings
    machine = experiment.machine
    hardware = ", ".join(weighed["published_hardware"].dropna().unique())
    budget = in_epochs(experiment.table1.epochs)
    return (
        f"Projection: {budget} of {small.training_images:,} images, one "
        "teacher pass and one training step of every method's student an image, at the throughput "
        f"that timm publishes for {hardware or 'no hardware'}; losses, data loading and evaluation "
        f"are not in it. Sources: {experiment.networks}. Memory: the scale's own batch on "
        f"{machine.nodes * machine.processes} process(es); weights, gradients, moments and EMA of "
        "every method, the teacher, and what the largest method keeps for its backward pass, "
        "counted here from the tensors that autograd saves; workspaces and fragmentation come on "
        "top."
    )
