"""Several processes, shards and passes: any layout of a batch gives the one-process result.

torchrun starts two processes for distributed_worker.py, which takes every measurement of two ranks
at once; the tests compare them with what this process computes alone. Also runs whose processes
are killed, mixed precision, and how jobs are started and given their GPUs.
"""

import contextlib
import functools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from distributed_worker import (
    BATCH,
    LAYOUTS,
    LOSSES,
    METHODS,
    ON_TWO_RANKS,
    PAIR,
    RECIPE,
    TESTED_IMAGES,
    differentiate,
    evaluate_some,
    learn,
    methods_of,
    overrides,
    training,
)
from timm.data.distributed_sampler import RepeatAugSampler
from torch import nn

from baselines.none import NoDistillation
from baselines.sp import similarity_loss
from manifold import ranks
from manifold.errors import UserError
from manifold.files import sha256
from manifold.losses import decoupled_manifold_loss, full_manifold_loss
from manifold.models import create_model, save_weights
from manifold.ranks import Ranks
from manifold.seeds import derive
from manifold.settings import CELL_FILES, ROOT, resolve, to_words
from manifold.tokens import Outputs, forward_with_tokens
from manifold.training import launch
from manifold.training.data import TrainingBatches, own_shards
from manifold.training.runs import passes_per_step, student_setting

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("distributed_worker.py")
SEARCHED = os.pathsep.join(filter(None, [str(WORKER.parent), os.environ.get("PYTHONPATH")]))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": SEARCHED}
DEADLINE_SECONDS = 300

# Runs that are killed: 5 steps an epoch, and a checkpoint after each.
KILLED_METHODS, EPOCHS, STEPS = ["fitnet", "manifold"], 4, 20
SHARDS = {"shards": 2, "relational_batch": "shard"}


@contextlib.contextmanager
def started(command, **environment):
    """A job that is killed at the end of the block; ``said()`` is its standard error so far."""
    with tempfile.NamedTemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT | environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        process.said = Path(errors.name).read_text
        try:
            yield process
        finally:
            kill([process.pid, *children(process)])
            process.wait()


def kill(processes):
    """Kill the groups of these; torchrun gives each worker one of its own."""
    for number in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)


def children(process):
    try:
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return [int(number) for number in path.read_text(encoding="utf-8").split()]
    except OSError:
        return []


def is_running(number):
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            not in "ZX"
        )
    return False


def wait_for(condition, seconds=DEADLINE_SECONDS):
    """Whether the condition has come true in time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.001)
    return found


@pytest.fixture(scope="module")
def torchrun(warm_python):
    """Let two processes run the worker; return torchrun's exit status and what they said."""

    def run(*arguments):
        words = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        with started([*words, "-m", WORKER.stem, *arguments], PATH=warm_python) as process:
            return process.wait(DEADLINE_SECONDS), process.said()

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A teacher that was never trained: its features are as good as any."""
    experiment = resolve({"scale": "smoke"})
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_weights(create_model(experiment.pairs[PAIR].teacher.model, (1, 8, 8), 10), path)
    return path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, weights):
    """Overrides of a two-rank run that is never stopped; ``two_ranks`` runs it."""
    results = tmp_path_factory.mktemp("uninterrupted")
    return overrides(results, weights, SHARDS, {"checkpoint_seconds": 3600})


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, torchrun, weights, uninterrupted):
    """What each of two ranks measured."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run = json.dumps([uninterrupted, EPOCHS, KILLED_METHODS])
    status, said = torchrun("measure", str(folder), str(weights), run)
    assert status == 0, said
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, weights):
    """What one process learns, by layout."""

    @functools.cache
    def learn_alone(layout):
        results = tmp_path_factory.mktemp("alone")
        return learn(training(results, weights, *LAYOUTS[layout], methods=methods_of(layout)))

    return learn_alone


# ---- two ranks against one process -------------------------------------------------------------

WAYS = [(2, layout) for layout in ON_TWO_RANKS] + [
    (1, layout) for layout in LAYOUTS if "a pass" in layout
]
EACH_WAY = pytest.mark.parametrize(
    ("way", "method"),
    [(way, method) for way in WAYS for method in methods_of(way[1])],
    ids=lambda value: value if isinstance(value, str) else f"{value[1]} on {value[0]}",
)


@pytest.fixture
def learned(two_ranks, alone):
    """The findings of each process that learned in that way, and those of the one-process run."""

    def find(way):
        count, layout = way
        found = [rank[layout] for rank in two_ranks] if count == 2 else [alone(layout)]
        return found, alone(layout.split(",")[0])

    return find


def tolerance(way):
    return 0.03 if way[1] == "bfloat16" else 2e-5


def differences(own, other, tolerance):
    """The tensors whose distance, relative to the other's norm, is not within the tolerance."""
    assert own.keys() == other.keys() != set()
    distances = {
        name: ((own[name] - other[name]).norm() / other[name].norm().clamp(min=1e-12)).item()
        for name in other
    }
    return {name: distance for name, distance in distances.items() if not distance <= tolerance}


def mean_of_terms(found):
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


@pytest.mark.parametrize("layout", ON_TWO_RANKS)
@pytest.mark.parametrize("what", ["images", "targets"])
def test_the_ranks_read_the_one_process_batch(what, layout, learned):
    """Mixed within each shard, bit for bit."""
    found, expected = learned((2, layout))
    assert torch.equal(torch.cat([each[what] for each in found]), expected[what])
    assert len(expected[what]) == BATCH
    assert not torch.equal(found[0][what], found[1][what])


@EACH_WAY
def test_the_loss_is_that_of_one_process(way, method, learned):
    found, expected = learned(way)
    own = mean_of_terms([each["terms"][method] for each in found])
    reference = expected["terms"][method]
    assert own == pytest.approx(reference, rel=2e-6, abs=tolerance(way) / 10)


@EACH_WAY
def test_the_gradients_are_those_of_one_process(way, method, learned):
    found, expected = learned(way)
    reference = expected["gradients"][method]
    assert any(name.startswith("auxiliary.") for name in reference) == (method == "fitnet")
    for each in found:
        assert differences(each["gradients"][method], reference, tolerance(way)) == {}


@EACH_WAY
@pytest.mark.parametrize("what", ["weights", "ema"])
def test_the_weights_after_an_epoch_are_those_of_one_process(what, way, method, learned):
    found, expected = learned(way)
    for each in found:
        assert differences(each[what][method], expected[what][method], tolerance(way)) == {}
    assert differences(expected["weights"][method], expected["ema"][method], 0.01) != {}


@pytest.mark.parametrize("way", [way for way in WAYS if way[1] != "bfloat16"], ids=str)
def test_the_projector_after_an_epoch_is_that_of_one_process(way, learned):
    found, expected = learned(way)
    for each in found:
        reference = expected["auxiliary"]["fitnet"]
        assert differences(each["auxiliary"]["fitnet"], reference, tolerance(way)) == {}


@EACH_WAY
def test_the_epochs_metrics_are_those_of_one_process(way, method, learned):
    found, expected = learned(way)
    accuracies = {"validation_top1": 0.5, "images_per_second": math.inf}
    (reference,) = expected["rows"][method]
    for each in found:
        (row,) = each["rows"][method]
        for name, value in reference.items():
            absolute = accuracies.get(name, tolerance(way) / 10)
            assert row[name] == pytest.approx(value, rel=2e-6, abs=absolute), name


@pytest.mark.parametrize("layout", ON_TWO_RANKS)
@pytest.mark.parametrize("what", ["gradients", "weights", "auxiliary", "ema"])
def test_both_ranks_hold_the_same(what, layout, two_ranks):
    own, other = (rank[layout][what] for rank in two_ranks)
    for method in methods_of(layout):
        assert own[method].keys() == other[method].keys()
        for name, value in own[method].items():
            assert torch.equal(value, other[method][name]), name


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_is_not_averaged_and_everything_trained_is(method, two_ranks):
    for rank in two_ranks:
        found, gradients = rank["batch"]["modules"][method], rank["batch"]["gradients"][method]
        assert found["network"] == "DistributedDataParallel"
        assert (found["teacher's"], found["teacher"]) == ("FrozenTeacher", 0)
        assert found["outside"] == []
        assert found["averaged"] == len(gradients)
        projectors = sum(name.startswith("auxiliary.projectors.") for name in gradients)
        assert projectors == (2 if method == "fitnet" else 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_crosses_the_ranks_is_differentiated_as_in_one_process(loss, two_ranks):
    expected = differentiate(loss)
    found = [rank["crossings"][loss] for rank in two_ranks]
    value = sum(each["value"] for each in found) / 2
    torch.testing.assert_close(value, expected["value"], rtol=1e-12, atol=0)
    assert expected["weight"].abs().max() > 1e-3
    assert (expected["head"].abs().max() > 1e-3) == (loss == "projected")
    for each in found:
        for name in ("weight", "head"):
            torch.testing.assert_close(each[name], expected[name], rtol=1e-10, atol=1e-12)


# ---- the relational batch ----------------------------------------------------------------------

SIZES = {"shard": 2, "batch": 1}  # relational batches in a batch of two shards


@pytest.fixture(scope="module")
def first_tokens(tmp_path_factory, weights, alone):
    """The (student, teacher) tokens of the first batch, before any step."""
    made = training(tmp_path_factory.mktemp("tokens"), weights, *LAYOUTS["shard"])
    distiller = made.cohort.members[METHODS.index("manifold")].distiller
    images = alone("shard")["images"]
    with torch.no_grad():
        outputs = [
            forward_with_tokens(network, images, layers, 196)
            for network, layers in (
                (distiller.get_trainable_module(), distiller.layers.student),
                (made.cohort.teacher.model, distiller.layers.teacher),
            )
        ]
    return distiller.token_pairs(*outputs)


def manifold_by_hand(pairs, shard):
    """The weighted terms of one relational batch, with the rows that the shard's seed draws."""
    generator = torch.Generator().manual_seed(derive(0, "sampling", "manifold", 0, shard))
    losses = [
        torch.stack(
            decoupled_manifold_loss(
                own, other, torch.randperm(len(own) * own.shape[1], generator=generator)[:192]
            )
        )
        for own, other in pairs
    ]
    intra, inter, random = torch.stack(losses).mean(dim=0).tolist()
    return {"intra": 4.0 * intra, "inter": 0.1 * inter, "random": 0.2 * random}


def full_by_hand(pairs, shard):
    losses = [full_manifold_loss(own, other) for own, other in pairs]
    return {"full": 4.3 * torch.stack(losses).mean().item()}


@pytest.mark.parametrize("layout", SIZES)
@pytest.mark.parametrize(
    ("method", "by_hand"), [("manifold", manifold_by_hand), ("manifold_full", full_by_hand)]
)
def test_the_loss_is_the_mean_over_the_relational_batches(
    method, by_hand, layout, first_tokens, two_ranks, alone
):
    size = BATCH // SIZES[layout]
    parts = [
        by_hand([(own[rows], other[rows]) for own, other in first_tokens], shard)
        for shard, rows in enumerate(torch.arange(BATCH).split(size))
    ]
    assert len(parts) == SIZES[layout]
    expected = mean_of_terms(parts)
    for terms in (
        alone(layout)["terms"][method],
        mean_of_terms([rank[layout]["terms"][method] for rank in two_ranks]),
    ):
        assert {name: terms[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "term", "differs"),
    [
        ("none", "cross_entropy", False),
        ("soft_kd", "kl", False),
        ("hard_kd_token", "hard", False),
        ("fitnet", "hint", False),
        ("sp", "similarity", True),
        ("manifold", "intra", False),
        ("manifold", "inter", True),
        ("manifold", "random", True),
        ("manifold_full", "full", True),
    ],
)
def test_relations_between_images_and_nothing_else_depend_on_the_relational_batch(
    method, term, differs, two_ranks, alone
):
    for found in (two_ranks, [{layout: alone(layout) for layout in SIZES}]):
        batch, shard = (
            mean_of_terms([each[layout]["terms"][method] for each in found])[term]
            for layout in ("batch", "shard")
        )
        assert (abs(batch - shard) > 5e-3 * batch) == differs
        assert (batch == pytest.approx(shard, rel=1e-5)) != differs


# ---- how shards are shared out -----------------------------------------------------------------


def setting_of(weights, processes, recipe, per_pass=None):
    experiment = resolve(overrides("unused", weights, recipe, {"shards_per_pass": per_pass}))
    return student_setting(experiment, PAIR, RECIPE, 1, ["none"], 0, (processes, None))[0]


@pytest.mark.parametrize(
    ("shards", "scope", "count", "per_pass", "expected"),
    [
        (1, "batch", 1, None, 1),
        (4, "batch", 1, None, 1),
        (4, "batch", 2, None, 1),
        (4, "batch", 2, 2, 1),
        (4, "shard", 1, None, 1),
        (4, "shard", 1, 1, 4),
        (4, "shard", 1, 2, 2),
        (4, "shard", 2, 1, 2),
        (4, "shard", 4, 1, 1),
    ],
)
def test_passes_per_step(shards, scope, count, per_pass, expected, weights):
    recipe = {"shards": shards, "relational_batch": scope}
    assert passes_per_step(setting_of(weights, Ranks(0, count), recipe, per_pass)) == expected


@pytest.mark.parametrize(
    ("shards", "scope", "count", "per_pass", "parts"),
    [
        (4, "batch", 1, 1, ["shards_per_pass", "relational_batch"]),
        (4, "batch", 2, 1, ["shards_per_pass", "relational_batch"]),
        (4, "shard", 1, 3, ["shards_per_pass", "4 shard"]),
        (4, "shard", 2, 4, ["shards_per_pass", "2 shard"]),
        (2, "shard", 3, None, ["recipes.A.shards is 2", "3 processes"]),
        (4, "batch", 3, None, ["recipes.A.shards is 4", "3 processes"]),
        (1, "shard", 2, None, ["recipes.A.shards is 1", "2 processes"]),
    ],
)
def test_shards_that_cannot_be_shared_out_are_refused(
    shards, scope, count, per_pass, parts, weights
):
    setting = setting_of(
        weights, Ranks(0, count), {"shards": shards, "relational_batch": scope}, per_pass
    )
    with pytest.raises(UserError) as caught:
        passes_per_step(setting)
    for part in parts:
        assert part in str(caught.value)


LENGTH = 103


def keys_of(rank, count, shards=4, repeats=1, seed=0, epoch=0, batch_size=12, length=LENGTH):
    return list(
        TrainingBatches(
            length,
            batch_size,
            seed,
            epoch,
            shards=shards,
            repeats=repeats,
            ranks=Ranks(rank, count),
        )
    )


def flat(lists):
    return [item for each in lists for item in each]


@pytest.mark.parametrize("repeats", [1, 3])
def test_any_number_of_processes_reads_the_same_batches(repeats):
    whole = keys_of(0, 1, repeats=repeats)
    assert len(whole) == LENGTH // 12
    for count in (2, 4):
        parts = zip(*(keys_of(rank, count, repeats=repeats) for rank in range(count)), strict=True)
        assert [flat(part) for part in parts] == whole


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_shard_has_one_owner(count):
    owned = [list(own_shards(8, Ranks(rank, count))) for rank in range(count)]
    assert flat(owned) == list(range(8))
    assert {len(own) for own in owned} == {8 // count}


def permutation(seed, epoch):
    """The order of an epoch, read one image at a time."""
    order = [key[0][0] for key in keys_of(0, 1, 1, seed=seed, epoch=epoch, batch_size=1)]
    assert sorted(order) == list(range(LENGTH))
    return order


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("repeats", [1, 3])
def test_each_shard_is_what_the_references_sampler_deals_to_a_gpu(repeats, count):
    """Of the order with each image ``repeats`` times, GPU r of R has every R-th from the r-th."""
    order, per_gpu = permutation(seed=5, epoch=2), 12 // count
    repeated = [position for position in order for _ in range(repeats)]
    for rank in range(count):
        dealt = repeated[rank::count]
        sampler = RepeatAugSampler(order, count, rank, False, repeats, selected_round=0)
        timm_deals = [order[index] for index in sampler]
        assert timm_deals[: len(dealt)] == dealt[: len(timm_deals)]
        found = keys_of(rank, count, shards=count, repeats=repeats, seed=5, epoch=2)
        assert len(found) == LENGTH // 12
        for number, batch in enumerate(found):
            expected = dealt[number * per_gpu : (number + 1) * per_gpu]
            assert [position for position, _ in batch] == expected


def longer(images, rank=0, count=1, **of):
    """An epoch that shows more images than the split has."""
    made = {"batch_size": 16, "seed": 0, "epoch": 0, "shards": 4, **of}
    return TrainingBatches(LENGTH, images=images, ranks=Ranks(rank, count), **made)


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_longer_epoch_goes_through_all_images_again_in_other_orders(repeats):
    images = 3 * LENGTH + 20
    epoch = longer(images, repeats=repeats, batch_size=4, shards=1)
    assert len(epoch) == len(list(epoch)) == images // 4
    keys = [key for batch in epoch for key in batch]
    shown = [position for position, _ in keys][::repeats]
    passes = [shown[start : start + LENGTH] for start in range(0, len(shown), LENGTH)]
    whole = [each for each in passes if len(each) == LENGTH]
    assert len(whole) == (3 if repeats == 1 else 1)
    assert all(sorted(each) == list(range(LENGTH)) for each in whole)
    assert len({tuple(each) for each in whole}) == len(whole)
    assert len(set(keys)) == len(keys)  # no image is augmented twice in the same way
    once = longer(LENGTH, repeats=repeats, batch_size=4, shards=1)
    assert [key for batch in once for key in batch] == keys[: LENGTH // 4 * 4]


def test_a_longer_epoch_is_read_alike_by_any_number_of_processes_and_from_any_batch():
    images = 5 * LENGTH
    whole = list(longer(images))
    for count in (2, 4):
        parts = zip(*(longer(images, rank, count) for rank in range(count)), strict=True)
        assert [flat(part) for part in parts] == whole
    assert list(longer(images, first_batch=7)) == whole[7:]


def test_a_batch_of_more_images_than_there_are_tells_its_duplicates():
    batches = longer(600, batch_size=120, shards=2)
    for number, keys in enumerate(batches):
        expected = 1 - len({position for position, _ in keys}) / 120
        assert batches.duplicate_share(number, "batch") == pytest.approx(expected) and expected > 0


def test_an_epoch_of_imagenet_has_as_many_batches_as_the_references():
    class ImageNet:
        def __len__(self):
            return 1281167

    sampler = RepeatAugSampler(ImageNet(), num_replicas=8, rank=0)
    assert len(TrainingBatches(1281167, 1024, 0, 0, shards=8, repeats=3)) == len(sampler) // 128


def test_the_order_of_repeated_images_follows_the_seed_and_the_epoch():
    def order(**of):
        return [position for batch in keys_of(0, 2, repeats=3, **of) for position, _ in batch]

    first = order()
    assert order(seed=0, epoch=0) == first
    assert order(seed=0, epoch=1) != first != order(seed=1, epoch=0)


def test_copies_of_an_image_are_augmented_differently():
    seeds = {}
    for batch in keys_of(0, 1, repeats=3):
        for position, seed in batch:
            seeds.setdefault(position, []).append(seed)
    assert [len(own) for own in seeds.values()] == [3] * (LENGTH // 12 * 12 // 3)
    drawn = flat(seeds.values())
    assert len(set(drawn)) == len(drawn)
    for position, seed in keys_of(0, 1)[0]:
        assert seed in seeds.get(position, [seed])  # the first copy is that without repeats


# ---- evaluation --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", TESTED_IMAGES)
def test_two_ranks_evaluate_every_image_once(count, two_ranks):
    """Counts that two do not divide: DistributedSampler would count an image twice."""
    expected = evaluate_some(count)
    found = [rank["evaluations"][count] for rank in two_ranks]
    assert {each["top1"] for each in found} == {expected["top1"]}
    assert expected["top1"] * count / 100 == pytest.approx(round(expected["top1"] * count / 100))
    assert [len(each["seen"]) for each in found] == [(count + 1) // 2, count // 2]
    seen, images = (
        sorted(image.flatten().tolist() for image in part)
        for part in (torch.cat([each["seen"] for each in found]), expected["seen"])
    )
    assert seen == images
    assert len(set(map(tuple, images))) == count
    if count > 1:
        assert 0 < expected["top1"] < 100


# ---- kills -------------------------------------------------------------------------------------


def words(chosen, epochs=EPOCHS):
    options = ["--methods", *KILLED_METHODS, "--epochs", str(epochs), "--seed", "0"]
    return ["--config", *to_words(chosen), *options]


def command(chosen, epochs=EPOCHS):
    """The words of a rule for two processes without a GPU."""
    machine = resolve(chosen).machine.replaced(processes=2)
    _, *rest = launch.launcher(machine).split()
    return [sys.executable, *rest, "-m", "manifold", "train", *words(chosen, epochs)]


def cohort_of(chosen, epochs=EPOCHS):
    experiment = resolve(chosen)
    return student_setting(experiment, PAIR, RECIPE, epochs, KILLED_METHODS, 0)


def directory_of(chosen, method):
    return {cell.method: cell.directory for cell in cohort_of(chosen)[1]}[method]


def files_of(chosen):
    """The files of each cell's folder, and whether the cell is complete."""
    return {
        cell.method: (
            sorted(path.name for path in cell.directory.glob("[!.]*")),
            cell.is_complete(),
        )
        for cell in cohort_of(chosen)[1]
    }


ABSENT, COMPLETE = ([], False), (sorted(CELL_FILES), True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, torchrun, weights, warm_python):
    """A two-rank run that is killed three times: (exit status, words said, cells' files) of each.

    Rank 1 dies in the first epoch; then torchrun, from outside; then rank 0, between two cells. The
    command that is started last meets nothing. Also the workers of the torchrun that was killed,
    and whether they were gone soon after.
    """
    chosen = overrides(
        tmp_path_factory.mktemp("killed"), weights, SHARDS, {"checkpoint_seconds": 0}
    )
    stages = [(*torchrun("die-at-step", "1", "3", *words(chosen)), files_of(chosen))]

    state = cohort_of(chosen)[0].state
    seen = {state.stat().st_mtime_ns} if state.is_file() else set()

    def has_saved_again():
        with contextlib.suppress(FileNotFoundError):
            seen.add(state.stat().st_mtime_ns)
        return len(seen) > 3

    with started(command(chosen)) as process:
        wait_for(lambda: has_saved_again() or process.poll() is not None)
        workers = children(process)
        kill([process.pid])
        are_gone = wait_for(lambda: not any(map(is_running, workers)), seconds=5)
        kill(workers)
        stages.append((process.wait(), process.said(), files_of(chosen)))

    ending = ("die-at-file", "run.json", "1", "just after")
    stages.append((*torchrun(*ending, *words(chosen)), files_of(chosen)))
    _, *options = command(chosen)
    with started(["python", *options], PATH=warm_python) as process:
        stages.append((process.wait(DEADLINE_SECONDS), process.said(), files_of(chosen)))
    return chosen, stages, (workers, are_gone)


def test_a_kill_of_any_process_ends_the_job(killed):
    _, stages, _ = killed
    *ended, finished = [status for status, _, _ in stages]
    assert 0 not in ended
    assert ended[1] == -signal.SIGKILL
    assert finished == 0, stages[-1][1]


def test_a_killed_job_leaves_complete_cells_or_none(killed):
    _, stages, _ = killed
    assert [files for _, _, files in stages] == [
        {"fitnet": ABSENT, "manifold": ABSENT},
        {"fitnet": ABSENT, "manifold": ABSENT},
        {"fitnet": COMPLETE, "manifold": ABSENT},
        {"fitnet": COMPLETE, "manifold": COMPLETE},
    ]


def test_a_killed_job_is_resumed(killed):
    """The first rank says where; a rank that began elsewhere would show in the weights below."""
    chosen, stages, _ = killed
    resumed = [
        [int(line.rpartition(" ")[2]) for line in said.splitlines() if "resuming" in line]
        for _, said, _ in stages
    ]
    assert resumed[0] == []
    assert resumed[1] == [3]
    assert len(resumed[2]) == 1 and 3 < resumed[2][0] < STEPS
    assert resumed[3] == [STEPS]
    assert list(cohort_of(chosen)[0].state.parent.iterdir()) == []


@pytest.mark.parametrize("method", KILLED_METHODS)
def test_kills_do_not_show_in_the_weights(method, killed, uninterrupted, two_ranks):
    """Bit for bit: a sum of two ranks has one order."""
    own, other = (directory_of(chosen, method) for chosen in (killed[0], uninterrupted))
    assert sha256(own / "student.safetensors") == sha256(other / "student.safetensors")
    records = [
        json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (own, other)
    ]
    for key in ("result", "images_seen", "duplicate_share", "resolved", "passes"):
        assert records[0][key] == records[1][key]
    assert [record["processes"] for record in records] == [2, 2]


@pytest.mark.parametrize("method", KILLED_METHODS)
def test_kills_do_not_show_in_the_metrics(method, killed, uninterrupted, two_ranks):
    own, other = (
        pd.read_csv(directory_of(chosen, method) / "metrics.csv")
        for chosen in (killed[0], uninterrupted)
    )
    columns = [name for name in other if name != "images_per_second"]
    pd.testing.assert_frame_equal(own[columns], other[columns], rtol=1e-12)


def test_no_worker_outlives_its_torchrun(killed):
    """Else the job that is started again would train beside it, on the same files and GPUs.

    A worker that goes on completes the cells before it ends, which stand in no killed job's files.
    """
    *_, (workers, are_gone) = killed
    assert len(workers) == 2
    assert are_gone


# ---- mixed precision ---------------------------------------------------------------------------

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
MIXED = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture
def mixed(tmp_path, weights):
    def make(precision, methods=METHODS, **recipe):
        recipe = {"precision": precision, **recipe}
        return training(tmp_path, weights, recipe, {}, methods=methods)

    return make


def batch(number=0):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(BATCH, 1, 8, 8, generator=generator)
    return images, torch.randn(BATCH, 10, generator=generator).softmax(dim=1)


def rescale(cohort, scale):
    """A loss scale that overflows nowhere; the scaler would find one within some steps."""
    for member in cohort.members:
        if member.scaler.is_enabled():
            member.scaler.load_state_dict(member.scaler.state_dict() | {"scale": scale})


@MIXED
def test_a_step_in_mixed_precision(precision, mixed):
    cohort = mixed(precision).cohort
    rescale(cohort, 64.0)
    students = [member.distiller.get_trainable_module() for member in cohort.members]
    seen = []
    for network in (*students, cohort.teacher.model):
        network.blocks[0].mlp.fc1.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    before = [student.pos_embed.detach().clone() for student in students]
    cohort.step(*batch(), 3)
    assert seen == [PRECISIONS[precision]] * (len(students) + 1)
    for member, student, start in zip(cohort.members, students, before, strict=True):
        assert all(map(math.isfinite, member.totals.values()))
        assert member.totals["loss"] > 0
        moved = (student.pos_embed.detach() - start).abs().max()
        assert 1e-5 < moved < 0.1
        assert {p.dtype for p in member.distiller.parameters()} == {torch.float32}


@MIXED
@pytest.mark.parametrize("clip_norm", [None, 1e-3])
def test_gradients_in_mixed_precision_are_those_of_float32(clip_norm, precision, mixed):
    """Roughly: above all not times the loss scale, also where they are clipped."""
    found = []
    for chosen in (precision, "float32"):
        cohort = mixed(chosen, optimizer={"clip_norm": clip_norm}).cohort
        rescale(cohort, 64.0)
        found.append(gradients_of_a_step(cohort))
    assert len(found[0]) == len(METHODS)
    for own, exact in zip(*found, strict=True):
        assert (own - exact).norm() < 0.2 * exact.norm()
        assert clip_norm is None or exact.norm() == pytest.approx(clip_norm, rel=1e-2)


def gradients_of_a_step(cohort):
    """The gradient that reaches the optimizer of each member, as one vector."""
    caught = []

    def catch(optimizer, *_):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        caught.append(torch.cat([p.grad.flatten() for p in parameters]))

    for member in cohort.members:
        member.optimizer.register_step_pre_hook(catch)
    cohort.step(*batch(), 3)
    return caught


@MIXED
def test_a_training_in_mixed_precision_lowers_the_loss(precision, mixed):
    """From the loss scale that it starts with, whatever steps that costs."""
    (member,) = (cohort := mixed(precision, ["manifold"]).cohort).members
    losses = []
    for step in range(12):
        member.totals = {}
        cohort.step(*batch(), max(step, 2) % 5)
        losses.append(member.totals["loss"])
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.9 * losses[0]


def test_an_overflow_halves_the_loss_scale_which_a_checkpoint_keeps(mixed):
    made = mixed("float16", ["manifold"])
    (member,) = made.cohort.members
    start = 64.0
    rescale(made.cohort, start)
    embedding = member.distiller.get_trainable_module().pos_embed
    before = embedding.detach().clone()
    handle = embedding.register_hook(lambda gradient: gradient * math.inf)
    made.cohort.step(*batch(0), 3)
    handle.remove()
    assert torch.equal(embedding, before)
    assert member.scaler.get_scale() == start / 2
    made.cohort.step(*batch(1), 4)
    assert not torch.equal(embedding, before)

    made.step = 2
    made.save()
    saved = torch.load(made.setting.state)["cohort"]["members"]["manifold"]["scaler"]
    assert (saved["scale"], saved["_growth_tracker"]) == (start / 2, 1)
    again = mixed("float16", ["manifold"])
    again.resume()
    assert again.cohort.members[0].scaler.get_scale() == start / 2
    assert again.cohort.members[0].scaler.state_dict() == saved


def test_float16_starts_from_gradscalers_scale(mixed):
    (member,) = mixed("float16", ["manifold"]).cohort.members
    assert member.scaler.get_scale() == 65536.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_float16_scales_the_loss(precision, mixed):
    (member,) = mixed(precision, ["manifold"]).cohort.members
    assert not member.scaler.is_enabled()


def decoupled(term):
    def loss(student, teacher):
        return decoupled_manifold_loss(student, teacher, torch.arange(0, 96, 5))[term]

    return loss


def soft_kd(term):
    """Of the first tokens' logits, with targets that are not the teacher's."""

    def loss(student, teacher):
        made = NoDistillation(nn.Linear(1, 1), None, **DISTILLER)
        logits = (Outputs(tokens[:, 0, :10], {}) for tokens in (student, teacher))
        return made.soft_kd(*logits, torch.eye(10)[:8])[term]

    return loss


DISTILLER = {"image_shape": (1, 8, 8), "most_tokens": 196, "alpha": 0.5, "temperature": 2.0}
IN_FLOAT32 = {
    "intra": decoupled(0),
    "inter": decoupled(1),
    "random": decoupled(2),
    "full": full_manifold_loss,
    "similarity": similarity_loss,
    "kl": soft_kd("kl"),
    "cross_entropy": soft_kd("cross_entropy"),
}


@MIXED
@pytest.mark.parametrize("loss", IN_FLOAT32)
def test_losses_of_mixed_precision_features_are_taken_in_float32(loss, precision):
    """Equal to those of the same features in float32, to its rounding."""
    dtype = PRECISIONS[precision]
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(8, 16, width, generator=generator).to(dtype) for width in (24, 32)
    )
    with torch.autocast("cpu", dtype=dtype):
        found = IN_FLOAT32[loss](student, teacher)
    assert found.dtype == torch.float32
    expected = IN_FLOAT32[loss](student.float(), teacher.float()).item()
    assert found.item() == pytest.approx(expected, rel=1e-6)


# ---- starting jobs, and their GPUs -------------------------------------------------------------


@pytest.fixture
def machine():
    def make(**changes):
        return resolve({"scale": "smoke"}).machine.replaced(**changes)

    return make


@pytest.mark.parametrize(
    ("changes", "processes", "present", "missing"),
    [
        ({"processes": 2}, None, ["--processes 2"], ["--gpus", "srun"]),
        ({"device": "cuda"}, None, ["--processes 1", "--gpus 1"], ["srun"]),
        ({"device": "cuda", "processes": 8}, None, ["--processes 8", "--gpus 8"], ["srun"]),
        ({"device": "cuda", "jobs_per_gpu": 3}, None, ["--jobs-per-gpu 3"], []),
        (
            {"device": "cuda", "nodes": 2, "processes": 4},
            None,
            ["srun --nodes=2 ", "--ntasks=2 ", "--nodes 2 ", "--processes 4", "--gpus 4"],
            [],
        ),
        (
            {"device": "cuda", "nodes": 2, "processes": 4},
            None,
            ["--gres=gpu:4 ", "--kill-on-bad-exit=1 "],
            ["--gpus-per-node"],
        ),
        (
            {"device": "cuda", "nodes": 2, "processes": 4, "gres": "gpu:a100"},
            None,
            ["srun --nodes=2 ", "--gres=gpu:a100:4 ", "--gpus 4"],
            ["--gpus-per-node"],
        ),
        ({"nodes": 2}, None, ["srun --nodes=2 "], ["--gres", "--gpus"]),
        ({"device": "cuda", "nodes": 2, "processes": 4}, 1, ["--gpus 1"], ["srun", "--gpus 4"]),
    ],
)
def test_launcher(changes, processes, present, missing, machine):
    made = launch.launcher(machine(**changes), processes)
    assert "python -m manifold launch" in made and made.endswith(" --")
    assert [part for part in present if part not in made] == []
    assert [part for part in missing if part in made] == []


@pytest.mark.parametrize(
    ("changes", "processes"), [({}, None), ({"processes": 8}, 1), ({"nodes": 2}, 1)]
)
def test_one_process_without_a_gpu_is_started_by_python_alone(changes, processes, machine):
    assert launch.launcher(machine(**changes), processes) == "python"


@pytest.mark.parametrize(
    ("changes", "processes", "expected"),
    [
        ({"processes": 4}, None, {}),
        ({"device": "cuda"}, None, {"gpu": 1, "nodes": 1}),
        ({"device": "cuda", "processes": 8}, None, {"gpu": 8, "nodes": 1}),
        ({"device": "cuda", "processes": 8}, 1, {"gpu": 1, "nodes": 1}),
        ({"device": "cuda", "nodes": 2, "processes": 8}, 1, {"gpu": 1, "nodes": 1}),
        ({"device": "cuda", "processes": 8, "gres": "gpu"}, None, {"gres": "gpu:8", "nodes": 1}),
        ({"device": "cuda", "gres": "gpu:3090"}, 1, {"gres": "gpu:3090:1", "nodes": 1}),
        (
            {"device": "cuda", "nodes": 2, "processes": 4},
            None,
            {"gres": "gpu:4", "nodes": 2, "tasks": 2, "mpi": "srun"},
        ),
        ({"nodes": 2}, None, {"nodes": 2, "tasks": 2, "mpi": "srun"}),
        ({"gres": "gpu"}, None, {}),
    ],
)
def test_resources(changes, processes, expected, machine):
    found = launch.resources(machine(**changes), processes)
    names = ("gpu", "gres", "nodes", "tasks", "mpi")
    assert {name: found.get(name) for name in names} == {name: expected.get(name) for name in names}


@pytest.mark.parametrize("name", ["gpu:8", "gpu:a100:8", "a100", "gpu:a100-sxm"])
def test_a_gpu_by_a_name_that_is_not_slurms_is_refused(name, machine):
    with pytest.raises(UserError, match=rf"machine\.gres must be gpu or gpu:TYPE.* got '{name}'"):
        launch.resources(machine(device="cuda", processes=8, gres=name))


@pytest.mark.parametrize(("processes", "is_torchrun"), [(1, False), (2, True)])
def test_several_processes_of_one_node_are_torchruns(processes, is_torchrun):
    made = launch.command_line(1, processes, ["-m", "manifold", "train"], {})
    assert made[0] == sys.executable and made[-3:] == ["-m", "manifold", "train"]
    assert ("torch.distributed.run" in made) == is_torchrun
    if is_torchrun:
        assert {"--standalone", "--nproc-per-node=2"} <= set(made)


@pytest.fixture
def step(tmp_path, monkeypatch):
    """The environment of a node of a Slurm step, whose nodes have these names."""

    def make(node=0, names=("localhost", "LOCALHOST")):
        scontrol = tmp_path / "scontrol"
        scontrol.write_text(
            f"#!/bin/sh\n[ \"$*\" = 'show hostnames n[3-4]' ] && echo {' '.join(names)}",
            encoding="utf-8",
        )
        scontrol.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return {
            "SLURM_JOB_ID": "71234",
            "SLURM_JOB_NODELIST": "n[1-9]",
            "SLURM_STEP_ID": "2",
            "SLURM_STEP_NODELIST": "n[3-4]",
            "SLURM_NODEID": str(node),
        }

    return make


@pytest.mark.parametrize(("node", "is_host"), [(0, "true"), (1, "false")])
def test_several_nodes_meet_at_the_first_of_slurms(node, is_host, step, capsys):
    environment = step(node)
    made = launch.command_line(2, 4, ["-m", "manifold", "train"], environment)
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-id=71234.2"} <= set(made)
    (endpoint,) = [word for word in made if word.startswith("--rdzv-endpoint=localhost:")]
    port = int(endpoint.rpartition(":")[2])
    assert 1024 < port < 65536
    assert f"--local-addr={('localhost', 'LOCALHOST')[node]}" in made
    assert f"--rdzv-conf=is_host={is_host},join_timeout=300,read_timeout=300" in made
    assert "--standalone" not in made
    assert f"node {node + 1} of 2" in (said := capsys.readouterr().err)
    assert said.rstrip().endswith(f"meeting at localhost, port {port}")


def test_steps_of_one_allocation_meet_apart(step):
    def meeting(number):
        made = launch.command_line(2, 1, ["-m", "x"], {**step(), "SLURM_STEP_ID": number})
        return {word for word in made if word.startswith(("--rdzv-id", "--rdzv-endpoint"))}

    assert not meeting("2") & meeting("3")


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        (
            {"SLURM_STEP_NODELIST": None},
            None,
            r"machine\.nodes is 2, and srun has not started this",
        ),
        ({}, ["localhost"], r"machine\.nodes is 2, and srun has started this on 1 \(localhost\)"),
        ({}, ["localhost", "nowhere"], "a node of this job nowhere, and .* finds no address"),
        ({}, ["192.0.2.1", "localhost"], "this node 192.0.2.1, and that name does not lead to"),
        ({"SLURM_STEP_NODELIST": "x"}, None, "scontrol show hostnames x` lists, and on .* fails"),
    ],
)
def test_nodes_that_cannot_meet_are_refused(changes, names, message, step, monkeypatch):
    def address(name, *arguments, asked=socket.getaddrinfo, **options):
        if name == "nowhere":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return asked(name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", address)
    monkeypatch.setattr(launch, "SECONDS_TO_REACH_ITSELF", 0.5)
    environment = {**(step(names=names) if names else step()), **changes}
    environment = {name: value for name, value in environment.items() if value is not None}
    with pytest.raises(UserError, match=message):
        launch.command_line(2, 4, ["-m", "manifold", "train"], environment)


def test_nodes_meet_whose_own_names_are_not_slurms(step, tmp_path):
    """Each calls itself by a name that leads elsewhere, as if it had another interface.

    Of two names of one address, torchrun knows the machine by "localhost" only.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\nsocket.gethostname = lambda: '192.0.2.1'\n", encoding="utf-8"
    )
    job = tmp_path / "job.py"
    job.write_text(
        "import os\nprint(*(os.environ[name] for name in ('RANK', 'MASTER_ADDR')))\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "manifold", "launch", "--nodes", "2", "--", str(job)]
    python_path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    nodes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **ENVIRONMENT,
                **step(node, ("LOCALHOST", "localhost")),
                "PATH": os.environ["PATH"],
                "PYTHONPATH": python_path,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            encoding="utf-8",
        )
        for node in (1, 0)
    ]
    try:
        said = [node.communicate(timeout=DEADLINE_SECONDS) for node in nodes]
    finally:
        kill([node.pid for node in nodes])
    assert [node.returncode for node in nodes] == [0, 0], said
    ranks_of, masters = zip(*(out.split() for out, _ in said), strict=True)
    assert sorted(ranks_of) == ["0", "1"]
    assert len(set(masters)) == 1 and masters[0] in ("localhost", "LOCALHOST")


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"process 3 .* 2 GPU"):
        ranks.start("cuda")


# What the launcher asks of torch, on a machine where a job may open the GPUs of OPENED_GPUS. It
# stops at the first name that it does not know, as CUDA does.
TORCH = """
import itertools
import os
from types import SimpleNamespace

opened = {str(number): uuid for number, uuid in enumerate(os.environ["OPENED_GPUS"].split())}
named = {**opened, "MIG-7/1/0": "of-the-whole-gpu"}
shown = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(opened)).split(",")
uuids = [named[gpu] for gpu in itertools.takewhile(named.__contains__, shown)]
cuda = SimpleNamespace(
    device_count=lambda: len(uuids),
    get_device_properties=lambda number: SimpleNamespace(uuid=uuids[number]),
)
"""


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """A folder of locks, for this process and for those that it starts.

    Those find a torch there that knows eight GPUs: a, b, c, …
    """
    monkeypatch.setattr(launch, "LOCKS", tmp_path)
    monkeypatch.setattr(launch, "SECONDS_BETWEEN_TRIES", 0.02)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("OPENED_GPUS", "a b c d e f g h")
    (tmp_path / "torch.py").write_text(TORCH, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


@pytest.fixture
def hold(locks):
    """Hold GPUs in this process as long as the test lasts, and return their ids.

    ``hold.later`` does so in a thread, which waits for them, and returns the list that gets them.
    """
    descriptors, threads = [], []

    def hold_some(count=1, jobs_per_gpu=1, visible=("0", "1")):
        uuids = dict(zip(visible, "ab", strict=False))
        held = launch.hold_gpus(count, jobs_per_gpu, uuids)
        descriptors.extend(descriptor for _, descriptor in held)
        return [gpu for gpu, _ in held]

    def hold_later(*arguments):
        found = []
        threads.append(
            threading.Thread(target=lambda: found.extend(hold_some(*arguments)), daemon=True)
        )
        threads[-1].start()
        return found

    def release():
        while descriptors:
            os.close(descriptors.pop())

    hold_some.later, hold_some.release = hold_later, release
    yield hold_some
    release()
    for thread in threads:
        thread.join(10)
        release()


SHOW = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"


@contextlib.contextmanager
def launched(*options, code=SHOW, **environment):
    """A job of a line of Python that the launcher starts; it is killed at the end of the block."""
    command = [sys.executable, "-m", "manifold", "launch", *options, "--", "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, **environment}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("jobs_per_gpu", "counts", "expected"),
    [
        (1, [1, 1], [["0"], ["1"]]),
        (1, [2], [["0", "1"]]),
        (2, [1, 1, 1, 1], [["0"], ["1"], ["0"], ["1"]]),
        (2, [2, 2], [["0", "1"], ["0", "1"]]),
        (2, [1, 2, 1], [["0"], ["1", "0"], ["1"]]),
    ],
)
def test_the_emptiest_gpus_are_held_first(jobs_per_gpu, counts, expected, hold):
    assert [hold(count, jobs_per_gpu) for count in counts] == expected


def test_gpus_are_named_by_their_ids(hold):
    visible = ["GPU-5a", "MIG-7/1/0"]
    assert [hold(visible=visible), hold(visible=visible)] == [["GPU-5a"], ["MIG-7/1/0"]]


@pytest.mark.parametrize("visible", [[], ["0"], ["0", "1"]])
def test_more_gpus_than_are_visible_are_refused(visible, hold):
    with pytest.raises(UserError, match=rf"needs 3 GPUs and the machine shows {len(visible)}"):
        hold(3, 1, visible)


def test_a_job_waits_until_a_killed_one_frees_its_gpu(hold):
    """The lock outlives the launcher, which becomes the job, and not the job."""
    with launched("--gpus", "1", code=f"{SHOW}; import time; time.sleep(60)") as job:
        taken = job.stdout.readline().strip()
        assert sorted([taken, *hold()]) == ["0", "1"]
        found = hold.later()
        time.sleep(0.3)
        assert found == []
    assert wait_for(lambda: found, seconds=10) == [taken]


def test_a_job_that_waits_for_two_gpus_holds_neither(hold):
    assert hold() == ["0"]
    found = hold.later(2)
    time.sleep(0.2)
    other = hold.later()
    assert wait_for(lambda: other, seconds=10) == ["1"]
    assert found == []
    hold.release()
    assert wait_for(lambda: found, seconds=10) == ["0", "1"]


@pytest.mark.parametrize(
    ("options", "environment", "shown", "locked"),
    [
        (["--gpus", "1"], {}, "0", ["a-0"]),
        (["--gpus", "2"], {}, "0,1", ["a-0", "b-0"]),
        (["--gpus", "1"], {"CUDA_VISIBLE_DEVICES": "7,3"}, "7", ["h-0"]),
        (["--gpus", "1"], {"CUDA_VISIBLE_DEVICES": "MIG-7/1/0"}, "MIG-7/1/0", ["MIG-7-1-0-0"]),
        (["--gpus", "1"], {"SLURM_JOB_ID": "1"}, "0", ["a-0"]),
        ([], {}, "0,1", None),
    ],
)
def test_a_job_sees_the_gpus_that_it_holds(options, environment, shown, locked, locks):
    with launched(*options, **environment) as process:
        said, complaint = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (0, shown), complaint
    names = sorted(path.name.split("-", 3)[3] for path in locks.glob("manifold-gpu-*.lock"))
    assert names == ([f"{name}.lock" for name in locked] + ["queue.lock"] if locked else [])


SHOW_AND_STAY = f"{SHOW}; import time; time.sleep(60)"


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "7"}, {"CUDA_VISIBLE_DEVICES": "1"}])
def test_two_jobs_that_see_the_same_gpus_get_one_each(environment, locks, monkeypatch):
    """On one machine, in one allocation of Slurm's, and where they number the GPUs differently."""
    monkeypatch.setenv("OPENED_GPUS", "a b")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with launched("--gpus", "1", code=SHOW_AND_STAY, **environment) as first:
        taken = first.stdout.readline().strip()
        with launched("--gpus", "1") as second:
            said, _ = second.communicate(timeout=60)
    assert sorted([taken, said.strip()]) == ["0", "1"]


def test_jobs_that_slurm_has_parted_do_not_wait_for_each_other(locks):
    """In each, the one GPU that it may open is called 0."""
    slurm = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": "8"}
    with launched("--gpus", "1", code=SHOW_AND_STAY, OPENED_GPUS="a", **slurm) as first:
        assert first.stdout.readline().strip() == "0"
        with launched("--gpus", "1", OPENED_GPUS="b", **slurm) as second:
            said, complaint = second.communicate(timeout=60)
    assert (said.strip(), complaint) == ("0", "")


def test_a_job_waits_for_a_gpu_that_another_knows_by_another_number(locks):
    """Slurm has shown the first one GPU of two by its number; to the second it is the only one."""
    with launched("--gpus", "1", code=SHOW_AND_STAY, CUDA_VISIBLE_DEVICES="1") as first:
        assert first.stdout.readline().strip() == "1"
        with launched("--gpus", "1", CUDA_VISIBLE_DEVICES="0", OPENED_GPUS="b") as second:
            assert second.stderr.readline() == "waiting for 1 free GPU(s)\n"
            first.kill()
            assert second.stdout.readline().strip() == "0"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, "0 (none)"),
        ({"OPENED_GPUS": ""}, "0 (none)"),
        ({"CUDA_VISIBLE_DEVICES": "0,9,1"}, "1 (0)"),
    ],
)
def test_a_job_is_told_of_the_gpus_that_cuda_finds(environment, shown, locks):
    with launched("--gpus", "2", **environment) as process:
        said, complaint = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
    assert complaint.startswith(f"error: this job needs 2 GPUs and the machine shows {shown}; ")


def test_a_job_is_told_why_torch_finds_no_gpus(locks):
    (locks / "torch.py").write_text("raise ImportError('libcudart.so.13')", encoding="utf-8")
    with launched("--gpus", "1") as process:
        said, complaint = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
    assert complaint.startswith("error: torch finds no GPUs, and machine.device is cuda:")
    assert complaint.rstrip().endswith("ImportError: libcudart.so.13")


def test_a_job_of_too_many_gpus_ends_with_the_message_alone(locks):
    with launched("--gpus", "3") as process:
        said, complaint = process.communicate(timeout=60)
    assert process.returncode == 1 and said == ""
    assert complaint.startswith("error: this job needs 3 GPUs and the machine shows 2 (0, 1)")


def test_a_jobs_own_options_are_left_to_it(locks):
    code = "import sys; print(sys.argv[1:])"
    words = [sys.executable, "-m", "manifold", "launch", "--gpus", "1", "--", "-c", code]
    done = subprocess.run(
        [*words, "--gpus", "5", "a=b"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "['--gpus', '5', 'a=b']", done.stderr
