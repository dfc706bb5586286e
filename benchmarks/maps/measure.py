"""Teacher and students of a seed on the test images: ``maps/seed-SEED``.

``maps.json`` holds, for each network, how far its relation maps are from the teacher's, by the
losses that ``manifold`` minimises, unweighted; and how often and how closely its predictions are
the teacher's. ``maps.safetensors`` holds what the figures show: a batch's full maps, its random
tokens, and the intra-image maps of single images. The untrained student is the one that a training
of this seed starts from.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from benchmarks.evidence.cells import collect
from benchmarks.evidence.kept import is_kept, keep
from benchmarks.maps import FILES, MAPS, PARTS, RECORD, TEACHER, Maps
from manifold import ranks
from manifold.distiller import FrozenTeacher
from manifold.errors import UserError
from manifold.files import sha256, write_atomic
from manifold.losses import (
    at_least_float32,
    decoupled_manifold_loss,
    full_manifold_loss,
    kl_divergence,
)
from manifold.models import create_model, load_weights
from manifold.relations import at_unit_length, mean_difference
from manifold.seeds import derive, reseed
from manifold.settings import CELL_FILES, UNTRAINED, Experiment, LayerMap, fingerprint
from manifold.settings.sources import job_hash
from manifold.tokens import Outputs, check_grids, forward_with_tokens, layouts
from manifold.training import description, records
from manifold.training.alone import alone_on
from manifold.training.data import Images, data_digest, evaluation_loader, load_splits
from manifold.training.progress import progress
from manifold.training.runs import build_teacher, student_setting


@dataclass
class Totals:
    """Sums over batches of what is measured of one network.

    Attributes:
        maps: (pair of blocks, part): over whole batches.
        batches: how many of them.
        images: over which the counts below are; KL is a sum over them too.
        errors: images on which the teacher is wrong.
    """

    maps: dict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    batches: int = 0
    images: int = 0
    correct: int = 0
    agreed: int = 0
    errors: int = 0
    agreed_errors: int = 0
    kl: float = 0.0

    def add_predictions(self, own: Tensor, teacher: Tensor, labels: Tensor) -> None:
        """Count the predictions of a batch: logits (B, classes) of both, and the labels (B,)."""
        chosen, wanted = own.argmax(dim=1), teacher.argmax(dim=1)
        is_same, is_error = chosen == wanted, wanted != labels
        self.images += len(labels)
        self.correct += int((chosen == labels).sum())
        self.agreed += int(is_same.sum())
        self.errors += int(is_error.sum())
        self.agreed_errors += int((is_same & is_error).sum())
        self.kl += float(kl_divergence(own, teacher, temperature=1.0)) * len(labels)

    def add_maps(self, pairs: Iterable[tuple[Tensor, Tensor]], rows: Tensor) -> None:
        """Add the distances of a whole batch's maps, pair of blocks by pair of blocks.

        Args:
            pairs: tokens of the network (B, N, D_s) and of the teacher (B, N, D_t).
            rows: (K,) of the flattened (B·N) tokens.
        """
        self.batches += 1
        for place, (own, teacher) in enumerate(pairs):
            intra, inter, random = decoupled_manifold_loss(own, teacher, rows)
            full = full_manifold_loss(own, teacher)
            other = intra_distance(own, teacher.roll(1, dims=0))
            for part, value in zip(PARTS, (intra, inter, random, full, other), strict=True):
                self.maps[place, part] += float(value)

    def shown(self, layers: LayerMap) -> dict:
        """The means and shares, as plain types; the shares in percent."""
        blocks = zip(layers.student, layers.teacher, strict=True)
        return {
            "layers": [
                {"student_block": own, "teacher_block": other}
                | {part: self.maps[place, part] / self.batches for part in PARTS}
                for place, (own, other) in enumerate(blocks)
            ],
            "top1": 100 * self.correct / self.images,
            "agreement": 100 * self.agreed / self.images,
            "agreement_on_errors": 100 * self.agreed_errors / self.errors if self.errors else None,
            "kl": self.kl / self.images,
        }


def relation_map(tokens: Tensor) -> Tensor:
    """M(X) = X Xᵀ of tokens (…, rows, D), each at unit length: cosines (…, rows, rows)."""
    normalised, _ = at_unit_length(at_least_float32(tokens))
    return normalised @ normalised.mT


def intra_distance(own: Tensor, teacher: Tensor) -> Tensor:
    """The intra-image loss of tokens (B, N, D_s) and (B, N, D_t) of images that need not match."""
    tokens = (at_unit_length(at_least_float32(each))[0] for each in (own, teacher))
    return mean_difference(*tokens, differentiate=False)[0]


def in_drawn_order(images: Images, most: int | None, seed: int) -> Images:
    """The images of a split in an order that no class has a say in, cut to ``most``."""
    order = np.random.default_rng(derive(seed, "images")).permutation(len(images))[:most]
    return replace(images, indices=images.indices[order])


def drawn_rows(rows: int, samples: int, seed: int, batch: int | str) -> Tensor:
    """K of a batch's flattened tokens, in their order; all where there are fewer."""
    drawn = np.random.default_rng(derive(seed, "tokens", batch)).permutation(rows)[:samples]
    return torch.from_numpy(np.sort(drawn))


def networks_of(study: Maps, seed: int, classes: int, device: torch.device) -> dict[str, nn.Module]:
    """The untrained student and those of the methods, in eval mode.

    Raises:
        UserError: a student is damaged, or of another configuration.
    """
    ((key, methods),) = study.students().items()
    setting, cells = student_setting(study.experiment, *key, methods, seed)
    collect(study.experiment, *key, methods, [seed])  # which refuses another configuration's
    reseed(derive(seed, "initialisation"))
    networks = {UNTRAINED: create_model(setting.pair.student, setting.image_shape, classes)}
    for cell in cells:
        weights = cell.directory / CELL_FILES[0]
        records.check_weights(weights)
        networks[cell.method] = create_model(cell.student, setting.image_shape, classes)
        load_weights(networks[cell.method], weights, f"the student of {cell.method!r}")
    return {name: network.to(device).eval() for name, network in networks.items()}


@torch.no_grad()
def compare(
    teacher: FrozenTeacher,
    networks: dict[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    layers: LayerMap,
    batch: int,
    samples: int,
    seed: int,
) -> dict[str, Totals]:
    """Compare each network, and the teacher itself, with the teacher.

    Args:
        batches: images (B, C, H, W), normalised, and labels (B,).
        batch: images of a whole batch: maps are of such alone, predictions of all.
        samples: K of a batch's random tokens.
        seed: of their draws.
    """
    totals = {name: Totals() for name in (TEACHER, *networks)}
    for number, (images, labels) in enumerate(batches):
        wanted = teacher(images)
        for name, outputs in _outputs(teacher, networks, images, layers):
            totals[name].add_predictions(outputs.logits, wanted.logits, labels)
            if len(images) == batch:
                blocks = layers.teacher if name == TEACHER else layers.student
                pairs = [
                    (outputs.tokens[own], wanted.tokens[other])
                    for own, other in zip(blocks, layers.teacher, strict=True)
                ]
                tokens = wanted.tokens[layers.teacher[0]]
                rows = drawn_rows(tokens.shape[0] * tokens.shape[1], samples, seed, number)
                totals[name].add_maps(pairs, rows)
    return totals


def _outputs(
    teacher: FrozenTeacher, networks: dict[str, nn.Module], images: Tensor, layers: LayerMap
) -> Iterator[tuple[str, Outputs]]:
    yield TEACHER, teacher(images)
    for name, network in networks.items():
        yield name, forward_with_tokens(network, images, layers.student, teacher.most_tokens)


@torch.no_grad()
def shown_maps(
    study: Maps,
    teacher: FrozenTeacher,
    networks: dict[str, nn.Module],
    images: Tensor,
    layers: LayerMap,
) -> dict[str, Tensor]:
    """What the figures show, on the first of some images (B, C, H, W), normalised.

    Returns:
        ``images`` (B, C, H, W) from 0 to 1; for each network ``NAME.batch`` (B·N, B·N), the full
        map of the figure's batch, and ``NAME.images`` (B, N, N), the intra-image maps; and
        ``rows`` (K,), the batch's random tokens.
    """
    maps, place = study.settings, study.settings.shown_layers
    mean, std = (
        torch.tensor(values, device=images.device).view(1, -1, 1, 1)
        for values in (study.experiment.data.mean, study.experiment.data.std)
    )
    shown = {"images": (images * std + mean).clamp(0, 1)}
    for name, outputs in _outputs(teacher, networks, images, layers):
        block = (layers.teacher if name == TEACHER else layers.student)[place]
        tokens = outputs.tokens[block]
        shown[f"{name}.images"] = relation_map(tokens[: maps.shown_images])
        shown[f"{name}.batch"] = relation_map(tokens[: maps.shown_batch].flatten(0, 1))
    rows = len(shown[f"{TEACHER}.batch"])
    return {**shown, "rows": drawn_rows(rows, maps.shown_samples, maps.seed, "shown")}


def run(experiment: Experiment, seed: int) -> None:
    """Write the maps and the record of a seed, unless they are there and stay.

    Raises:
        UserError: a network is missing or damaged, or the token grids of two blocks differ.
    """
    study = experiment.studies["maps"]
    _, device = ranks.start(experiment.machine.device)
    directory, expected = study.directory(seed), fingerprint(study.record_identity(seed))
    with alone_on([directory]):
        if is_kept(experiment, __name__, directory, FILES, expected, study.data_files()):
            keep(directory, FILES)
        else:
            _run(study, seed, device)


def _run(study: Maps, seed: int, device: torch.device) -> None:
    experiment, maps, started = study.experiment, study.settings, time.monotonic()
    made_by = job_hash(__name__)  # of the sources that this process runs, before anyone edits them
    shaped_by = study.record_identity(seed)
    splits = load_splits(experiment.data)
    images = in_drawn_order(getattr(splits, experiment.evaluation_split), maps.images, maps.seed)
    if len(images) < 2:
        raise UserError(
            f"maps: the {experiment.evaluation_split} split has {len(images)} image(s), and "
            "relations are among two at least"
        )
    ((key, methods),) = study.students().items()
    setting, _ = student_setting(experiment, *key, methods, seed)
    teacher = build_teacher(replace(setting, device=device), len(splits.classes))
    layers = setting.pair.layers[maps.layers]
    teacher.watch(layers.teacher)
    networks = networks_of(study, seed, len(splits.classes), device)
    _check_grids(teacher, networks, layers, setting.image_shape)
    batch = min(maps.batch, len(images))
    workers = experiment.machine.workers
    loader = evaluation_loader(images, experiment.data, batch, workers, device=device)
    batches = progress(loader, what=f"maps, seed {seed}", unit="batch", disable=None)
    totals = compare(teacher, networks, batches, layers, batch, maps.samples, maps.seed)
    if broken := [name for name, own in totals.items() if not math.isfinite(own.kl)]:
        raise UserError(f"maps, seed {seed}: logits of {broken[0]} that are not finite")
    count = max(maps.shown_images, maps.shown_batch)
    first = replace(images, indices=images.indices[:count])
    (pictures, _), *_ = evaluation_loader(first, experiment.data, count, workers, device=device)
    found = shown_maps(study, teacher, networks, pictures, layers)
    arrays = {name: tensor.cpu().numpy() for name, tensor in found.items()}
    directory = study.directory(seed)
    write_atomic(directory / MAPS, lambda partial: save_file(arrays, partial))
    record = {
        "fingerprint": fingerprint(shaped_by),
        "configuration": shaped_by,
        "source_hash": made_by,
        "data_digest": data_digest(experiment, splits),
        "seed": seed,
        "split": experiment.evaluation_split,
        "images": len(images),
        "batch": batch,
        "batches": totals[TEACHER].batches,
        "tokens": arrays[f"{TEACHER}.images"].shape[-1],
        "networks": {name: own.shown(layers) for name, own in totals.items()},
        "wall_seconds": time.monotonic() - started,
        "environment": description.describe_environment(device),
        "files": {MAPS: sha256(directory / MAPS)},
    }
    records.write_run(directory / RECORD, record)


def check_networks(study: Maps) -> None:
    """Refuse, before anything is trained, networks whose tokens cannot be compared.

    Raises:
        UserError: the layer map names a block that is not there, or the grids do not match.
    """
    experiment, maps = study.experiment, study.settings
    pair, shape = experiment.pairs[maps.pair], experiment.data.image_shape
    student, teacher = (create_model(m, shape, 2) for m in (pair.student, pair.teacher.model))
    frozen = FrozenTeacher(teacher, pair.most_tokens)
    _check_grids(frozen, {UNTRAINED: student}, pair.layers[maps.layers], shape)


def _check_grids(
    teacher: FrozenTeacher,
    networks: dict[str, nn.Module],
    layers: LayerMap,
    image_shape: tuple[int, int, int],
) -> None:
    own = layouts(networks[UNTRAINED], image_shape, layers.student, teacher.most_tokens)
    other = layouts(teacher.model, image_shape, layers.teacher, teacher.most_tokens)
    check_grids(own, other, layers)
