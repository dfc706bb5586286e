"""Linear probe and k-nearest neighbours on the frozen features of every student of a seed.

For each method ``transfer/DATA/METHOD/seed-SEED/features.safetensors`` and ``probes.json``.

The features are timm's: ``forward_head(forward_features(images), pre_logits=True)``. The file holds
those of the three splits with their labels, and which training images each few-shot draw took, so
that every number can be had again from it alone.

C and k are chosen on the validation split, the smallest of equals. On all training images a
classifier is then fitted anew with the validation split added; of a few shots, on the shots alone.
"""

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from timm.data.loader import PrefetchLoader
from torch import nn

from benchmarks.evidence.kept import is_kept, keep
from benchmarks.transfer import FIXED, PROBE_FILES, LinearProbe, NearestNeighbours, Transfer
from benchmarks.transfer.cells import ALL, probes_identity
from benchmarks.transfer.data import open_data
from benchmarks.transfer.students import Student, students_of
from manifold import ranks
from manifold.errors import UserError
from manifold.files import sha256, write_atomic
from manifold.models import create_model, load_weights
from manifold.seeds import derive
from manifold.settings import Experiment, fingerprint
from manifold.settings.sources import job_hash
from manifold.training import description, records
from manifold.training.alone import alone_on
from manifold.training.data import data_digest, evaluation_loader
from manifold.training.progress import progress

SPLITS = ("train", "validation", "test")
FEATURES, RECORD = PROBE_FILES

Examples = tuple[np.ndarray, np.ndarray]  # features (N, D) and labels (N,)
Fit = Callable[[float, Examples], ClassifierMixin]


# ---- features --------------------------------------------------------------------------------


def network_of(student: Student, image_shape: tuple[int, int, int]) -> nn.Module:
    """The student's network with its weights, in eval mode."""
    network = create_model(student.model, image_shape, student.classes)
    load_weights(network, student.weights, f"the student of {student.method!r}")
    return network.eval()


@torch.no_grad()
def pooled_features(
    networks: list[nn.Module], loader: PrefetchLoader, what: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """What each network hands to its classifier, (N, D) in float32, and the labels (N,).

    Images are decoded once for all networks.
    """
    features: list[list[np.ndarray]] = [[] for _ in networks]
    labels = []
    for images, classes in progress(loader, what=what, unit="batch", disable=None):
        labels.append(classes.cpu().numpy())
        for network, own in zip(networks, features, strict=True):
            pooled = network.forward_head(network.forward_features(images), pre_logits=True)
            own.append(pooled.float().cpu().numpy())
    return [np.concatenate(own) for own in features], np.concatenate(labels)


def draw_shots(labels: np.ndarray, shots: int, seed: int, name: str, draw: int) -> np.ndarray:
    """The positions of ``shots`` images of each class.

    A draw follows from the seed, the data set's name and its number: it is the same for every
    method, and more shots are those of fewer shots and others.
    """
    generator = np.random.default_rng(derive(seed, "few-shot", name, draw))
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:shots]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def draw_name(shots: int, draw: int) -> str:
    return f"shots-{shots}-draw-{draw}"


# ---- classifiers -----------------------------------------------------------------------------


def linear_probe(settings: LinearProbe) -> Fit:
    """scikit-learn's multinomial logistic regression: L-BFGS on C·Σ CE + ‖W‖²/2, in float64."""

    def fit(regularisation: float, examples: Examples) -> LogisticRegression:
        model = LogisticRegression(
            C=regularisation, tol=settings.tolerance, max_iter=settings.iterations
        )
        with warnings.catch_warnings():  # the record tells how many iterations there were
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(*examples)

    return fit


def nearest_neighbours(settings: NearestNeighbours) -> Fit:
    """k neighbours by cosine similarity s, each with the vote exp(s / temperature).

    Source: Wu et al. 2018, arXiv 1805.01978, as in DINO (Caron et al. 2021, arXiv 2104.14294). The
    common factor exp(−1 / temperature) changes no vote.
    """

    def fit(neighbours: float, examples: Examples) -> KNeighborsClassifier:
        model = KNeighborsClassifier(
            int(neighbours),
            metric="cosine",
            algorithm="brute",
            weights=lambda distances: np.exp(-distances / settings.temperature),
        )
        return model.fit(*examples)

    return fit


def accuracy(model: ClassifierMixin, examples: Examples) -> float:
    """Top-1 in percent."""
    features, labels = examples
    return 100 * float(np.mean(model.predict(features) == labels))


def choose(fit: Fit, grid: list[float], train: Examples, validation: Examples) -> float:
    """The number of the grid with the best validation accuracy, the smallest of equals."""
    accuracies = {number: accuracy(fit(number, train), validation) for number in sorted(grid)}
    return max(accuracies, key=accuracies.__getitem__)


def measure(
    fit: Fit, grid: list[float], train: Examples, validation: Examples, test: Examples, refit: bool
) -> dict:
    """Choose on the validation split, fit, and measure on the test split.

    Args:
        refit: fit on training and validation split together, instead of the first alone.
    """
    chosen = choose(fit, grid, train, validation) if len(grid) > 1 else grid[0]
    both = tuple(np.concatenate(parts) for parts in zip(train, validation, strict=True))
    model = fit(chosen, both if refit else train)
    result = {"top1": accuracy(model, test), "chosen": chosen, "grid": [min(grid), max(grid)]}
    if hasattr(model, "n_iter_"):
        result["iterations"] = int(model.n_iter_.max())
    return result


# ---- a student on a data set -------------------------------------------------------------------


def probe(study: Transfer, name: str, dump: dict[str, np.ndarray]) -> list[dict]:
    """Both protocols, with all training images and with each number of shots.

    The shots stand there twice: with C and k chosen on the validation split, which has many more
    labels than they, and with C and k of the settings.

    Args:
        dump: what ``features.safetensors`` holds: the features of each split, its labels under
            ``SPLIT_labels``, and the positions of each draw.
    """
    transfer, entry = study.settings, study.settings.data[name]
    splits = [(dump[split].astype(np.float64), dump[f"{split}_labels"]) for split in SPLITS]
    train, validation, test = splits
    settings, near = transfer.linear_probe, transfer.nearest_neighbours
    protocols = {
        "linear-probe": (linear_probe(settings), settings.regularisation),
        "k-nn": (nearest_neighbours(near), near.neighbours),
    }
    fixed = {
        "linear-probe": transfer.few_shot.regularisation,
        "k-nn": transfer.few_shot.neighbours,
    }
    results, unchosen = [], []
    for protocol, (fit, grid) in protocols.items():
        if protocol not in entry.protocols:
            continue
        whole = measure(fit, grid, train, validation, test, refit=True)
        results.append({"protocol": protocol, "shots": ALL, "top1": whole["top1"], "fits": [whole]})
        for shots in entry.shots:
            fits, given = [], []
            for draw in range(transfer.draws):
                positions = dump[draw_name(shots, draw)]
                few = (train[0][positions], train[1][positions])
                fitting = grid if protocol != "k-nn" else [k for k in grid if k <= len(positions)]
                fits.append(measure(fit, fitting, few, validation, test, refit=False))
                number = fixed[protocol]
                if protocol == "k-nn":
                    number = min(number, len(positions))
                given.append(measure(fit, [number], few, validation, test, refit=False))
            results.append(_of_draws(protocol, shots, fits))
            unchosen.append(_of_draws(f"{protocol}{FIXED}", shots, given))
    return [*results, *unchosen]


def _of_draws(protocol: str, shots: int, fits: list[dict]) -> dict:
    top1 = float(np.mean([result["top1"] for result in fits]))
    return {"protocol": protocol, "shots": shots, "top1": top1, "fits": fits}


def run(experiment: Experiment, data: str, seed: int) -> None:
    """Write the features and records of a seed that are not there, or not to stay.

    Raises:
        UserError: a student is missing or damaged, or features that are not finite.
    """
    study = experiment.studies["transfer"]
    _, device = ranks.start(experiment.machine.device)
    students = students_of(study, seed)
    with alone_on([study.directory(data, student.method, seed) for student in students]):
        _run(study, data, students, seed, device)


def _run(
    study: Transfer, data: str, students: list[Student], seed: int, device: torch.device
) -> None:
    experiment, files, missing = study.experiment, study.data_files(data), []
    for student in students:
        directory = study.directory(data, student.method, seed)
        expected = fingerprint(probes_identity(study, data, student, seed))
        if is_kept(experiment, __name__, directory, PROBE_FILES, expected, files):
            keep(directory, PROBE_FILES)
        else:
            missing.append(student)
    if missing:
        _run_missing(study, data, missing, seed, device)


def _run_missing(
    study: Transfer, name: str, students: list[Student], seed: int, device: torch.device
) -> None:
    experiment, data, entry = study.experiment, study.data(name), study.settings.data[name]
    made_by = job_hash(__name__)  # of the sources that this process runs, before anyone edits them
    splits = open_data(name, data)
    digest = data_digest(experiment.replaced(data=data), splits)
    shape = data.image_shape
    networks = [network_of(student, shape).to(device) for student in students]
    dumps: list[dict[str, np.ndarray]] = [{} for _ in students]
    for split in SPLITS:
        loader = evaluation_loader(
            getattr(splits, split),
            data,
            experiment.machine.evaluation_batch_size,
            experiment.machine.workers,
            device=device,
        )
        features, labels = pooled_features(networks, loader, f"{name}, {split}, seed {seed}")
        for dump, own in zip(dumps, features, strict=True):
            dump |= {split: own, f"{split}_labels": labels}
    draws = {
        draw_name(shots, draw): draw_shots(dumps[0]["train_labels"], shots, seed, name, draw)
        for shots in entry.shots
        for draw in range(study.settings.draws)
    }
    for student, dump in zip(students, dumps, strict=True):
        if broken := [split for split in SPLITS if not np.isfinite(dump[split]).all()]:
            raise UserError(
                f"{student.weights}: features that are not finite on the {broken[0]} split of "
                f"{name}; train the student anew"
            )
        started = time.monotonic()
        dump |= draws
        directory = study.directory(name, student.method, seed)
        shaped_by = probes_identity(study, name, student, seed)
        write_atomic(directory / FEATURES, lambda partial, dump=dump: save_file(dump, partial))
        results = probe(study, name, load_file(directory / FEATURES))
        record = {
            "fingerprint": fingerprint(shaped_by),
            "configuration": shaped_by,
            "source_hash": made_by,
            "data_digest": digest,
            "data": name,
            "method": student.method,
            "seed": seed,
            "results": results,
            "splits": {split: len(dump[split]) for split in SPLITS},
            "classes": splits.classes,
            "feature_size": dump["train"].shape[1],
            "wall_seconds": time.monotonic() - started,
            "environment": description.describe_environment(device),
            "files": {FEATURES: sha256(directory / FEATURES)},
        }
        records.write_run(directory / RECORD, record)
