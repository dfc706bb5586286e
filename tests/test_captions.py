"""Every caption says scale, n, interval and the least gain that such a study would tell."""

import json
import re
from importlib import import_module
from types import SimpleNamespace

import pytest

from benchmarks.ablation import table as ablation
from benchmarks.cost import table as cost
from benchmarks.curves import table as curves
from benchmarks.evidence.captions import (
    NO_SPREAD,
    detectable_in_words,
    least_difference,
    least_differences,
)
from benchmarks.evidence.statistics import detectable_difference
from benchmarks.maps import table as maps
from benchmarks.recipes import measure as recipes
from benchmarks.segmentation import table as segmentation
from benchmarks.table1 import measure as table1
from benchmarks.transfer import table as transfer
from manifold.settings import resolve

SEEDS = [0, 1, 2]
ENVIRONMENT = {
    **{"device": "cpu", "processor": "a processor", "platform": "Linux", "threads": 1},
    **{"git_commit": "c0ffee", "packages": {"torch": "2"}},
}
RANGE = re.compile(r"\(\d+\.\d to \d+\.\d, (?P<widest>[^()]+)\)")


@pytest.fixture(scope="module")
def mini():
    return resolve({"scale": "mini", "seeds": SEEDS, "detection": {"seeds": None}})


def value_of(method, seed, place=0):
    """A number whose differences between methods have a spread of their own."""
    return 50 + len(method) + seed + place + (seed - 1) ** 2 * len(method) / 10


def result_of(value):
    top1 = {key: value for key in ("top1", "best_top1", "ema_top1")}
    return {**top1, "split": "test", "images": 360}


def student(pair, recipe, epochs, method, seed):
    return {
        **{"pair": pair, "recipe_name": recipe, "epochs": epochs, "method": method, "seed": seed},
        "result": result_of(value_of(method, seed, epochs)),
        "resolved": {"parameters": 1000},
        **{"wall_seconds": 1.0, "cohort": [method]},
        **{"images_seen": 2432, "images_per_second": 1.0, "duplicate_share": 0.0},
        **{"teacher_sha256": "", "fingerprint": "", "environment": ENVIRONMENT},
    }


def of_students(module):
    """The caption of a study of students alone, whose cells are made up."""

    def caption(study, monkeypatch, _):
        def collect(pair, recipe, epochs, methods):
            key = pair, recipe, epochs
            return {m: {s: student(*key, m, s) for s in study.seeds} for m in methods}

        def metrics_of(_, key):
            *_, epochs, method, seed = key
            own = {"kl": "1", "gradient_share_kl": "1", "validation_top1": value_of(method, seed)}
            return [{"epoch": n + 1, "step": 9 * (n + 1), **own} for n in range(epochs)]

        monkeypatch.setattr(study, "collect", collect)
        monkeypatch.setattr(module, "metrics_of", metrics_of, raising=False)
        teacher = {"top1": 88.0, "split": "test", "parameters": 1, "sha256": ""}
        unknown = ("epochs", "images_seen", "recipe_name", "images_per_second", "duplicate_share")
        teacher |= dict.fromkeys(unknown)
        monkeypatch.setattr(module, "read_teacher", lambda *_: teacher, raising=False)
        if module is curves:
            return study.build().caption
        return module.measure(study).caption

    return caption


def of_transfer(study, monkeypatch, _):
    def record(study, name, own, seed):
        ways = [("linear-probe", "all"), ("k-nn", "all"), ("k-nn", 5)]
        top1 = value_of(own.method, seed, len(name))
        fit = {"fits": [{"chosen": 1.0, "grid": [1.0, 2.0]}], "top1": top1}
        return {
            **{"data": name, "method": own.method, "seed": seed, "fingerprint": ""},
            **{"splits": {"train": 1, "validation": 1, "test": 1}, "classes": [0, 1]},
            "results": [{"protocol": way, "shots": shots, **fit} for way, shots in ways],
            **{"environment": ENVIRONMENT, "result": {"top1": top1}},
        }

    rows = [SimpleNamespace(method=method) for method in transfer.rows_of(study)]
    monkeypatch.setattr(transfer, "students_of", lambda *_: rows)
    monkeypatch.setattr(transfer, "_read_probes", record)
    monkeypatch.setattr(transfer, "_read_fine_tuning", record)
    return transfer.measure(study).caption


def of_maps(study, monkeypatch, _):
    parts = ("intra", "inter", "random", "full", "other")

    def network(method, seed):
        value = value_of(method, seed) / 100
        return {
            "layers": [{"student": 0, "teacher": 0, **dict.fromkeys(parts, value)}],
            **{"agreement": 100 * value, "agreement_on_errors": 100 * value},
            **{"kl": value, "top1": 100 * value},
        }

    def read(study, seed):
        names = [*maps.titles(study), maps.TEACHER]
        return {
            **{"images": 9, "split": "test", "batches": 1, "batch": 8, "tokens": 4},
            **{"fingerprint": "", "environment": ENVIRONMENT},
            "networks": {name: network(name, seed) for name in names},
        }

    monkeypatch.setattr(study, "collect", lambda *_: {})
    monkeypatch.setattr(study.sources, "add_job", lambda *_: None)
    monkeypatch.setattr(maps, "read", read)
    return maps.measure(study).caption


def dense_run(result):
    sizes = ("parameters", "backbone_parameters", "trained_parameters", "images_seen", "epochs")
    return {
        **{"result": result, "validation": [], "wall_seconds": 1.0, "fingerprint": ""},
        **{"configuration": {"student_sha256": ""}, "environment": ENVIRONMENT},
        **{"classes": ["a"], **dict.fromkeys(sizes, 1)},
    }


def of_detection(study, monkeypatch, _):
    pytest.importorskip("mmdet")
    table = import_module("benchmarks.detection.table")

    def collect(study, detector):
        ap = ("ap", "ap50", "ap75", "ap_random_classes")
        return {
            method: {
                seed: dense_run(
                    {
                        kind: dict.fromkeys(ap, value_of(method, seed, len(kind)))
                        for kind in ("bbox", "segm")
                    }
                )
                for seed in study.seeds
            }
            for method in study.backbones
        }

    split = {"images": 1, "annotations": 1}
    data = {"kind": "scenes", "splits": dict.fromkeys(("train", "validation", "test"), split)}
    monkeypatch.setattr(table, "collect", collect)
    monkeypatch.setattr(table, "read_record", lambda _: data)
    return table.measure(study).caption


def of_segmentation(study, monkeypatch, folder):
    own = study.experiment.replaced(results=str(folder)).studies["segmentation"]

    def collect(study, protocol, _):
        return {
            method: {
                seed: dense_run(
                    {
                        **{"miou": value_of(method, seed, len(protocol)), "iou": [1.0]},
                        **{"pixel_accuracy": 1.0, "pixels": [1]},
                    }
                )
                for seed in study.seeds
            }
            for method in study.backbones
        }

    examples = {split: [0] for split in ("train", "validation", "test")}
    data = {"kind": "scenes", "examples": examples, "classes": ["a"], "fingerprint": ""}
    own.found.parent.mkdir(parents=True)
    own.found.write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr(segmentation, "collect", collect)
    return segmentation.measure(own).caption


def of_cost(study, *_):
    return cost._caption(study, {"environment": ENVIRONMENT}, {})


CAPTIONS = {
    **dict.fromkeys(("table1", "bench", "hierarchical"), of_students(table1)),
    **dict.fromkeys(("recipes", "budgets"), of_students(recipes)),
    **{"ablation": of_students(ablation), "curves": of_students(curves)},
    **{"transfer": of_transfer, "maps": of_maps, "detection": of_detection},
    **{"segmentation": of_segmentation, "cost": of_cost},
}
WIDEST = {  # what the comparison with the widest spread is named by
    "recipes": r".+, recipe .+, \d+ epochs?",
    "budgets": r".+, recipe .+, \d+ epochs?",
    "transfer": r".+, .+, (k-NN|Linear probe|Fine-tuning).*, (all images|5 a class)",
    "detection": r".+, (mask_rcnn|retinanet), .+",
}


def test_every_study_that_is_evidence_is_held_to_it(mini):
    smoke = resolve({"scale": "smoke"})
    studies = {**smoke.studies, **mini.studies}
    shown = {name for name, study in studies.items() if study.is_evidence}
    assert {*shown, "cost"} == set(CAPTIONS)  # choices and rehearsals compare no methods


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_says_scale_n_interval_and_the_least_gain(name, mini, monkeypatch, tmp_path):
    study = mini.studies[name]
    said = CAPTIONS[name](study, monkeypatch, tmp_path)
    assert said.startswith(f"Scale {mini.name}: ")
    assert "  " not in said and said == said.strip()
    if name == "cost":
        rounds = (study.settings.losses.rounds, study.settings.steps.rounds)
        assert all(f"n = {n} " in said for n in rounds) and "Medians [quartiles]" in said
        assert "no least gain is said" in said
        return
    assert f"n = {len(SEEDS)} " in said and "95 % t intervals" in said
    if name == "segmentation":
        assert re.search(r"least gain that 80 % of .+ points by method \(median \d", said)
    elif name == "maps":
        assert re.search(r"80 % of such studies would tell a difference in agreement of \d", said)
    else:
        assert re.search(r"At this spread, 80 % of such studies would tell a .+ of \d", said)
        assert re.fullmatch(WIDEST.get(name, ".+"), RANGE.search(said)["widest"])


# ---- by hand ---------------------------------------------------------------------------------


def test_the_range_and_the_widest_comparison_are_named(mini):
    statistics = mini.statistics
    said = detectable_in_words([(2.0, "B"), (None, "C"), (0.5, "A"), (1.0, "D")], statistics)
    assert said == (
        "At this spread, 80 % of such studies would tell a gain of 1.0 points from zero, in one "
        "comparison of the median method (0.5 to 2.0, B). "
    )
    assert detectable_in_words([(None, "A"), (0.0, "B")], statistics) == NO_SPREAD


def test_differences_are_paired_within_what_is_named(mini):
    import pandas as pd

    seeds = pd.DataFrame(
        {"part": part, "method": method, "seed": seed, "value": value}
        for part, method, values in (
            ("x", "base", (1.0, 2.0, 3.0)),
            ("x", "own", (1.0, 3.0, 2.0)),
            ("x", "control", (0.0, 9.0, 0.0)),
            ("y", "own", (5.0, 6.0, 7.0)),
            ("y", "base", (1.0, 2.0, 3.0)),
        )
        for seed, value in enumerate(values)
    )
    statistics = mini.statistics
    given = (seeds, "value", "base", {"own": "Own", "base": "Base"}, statistics, ["part"])
    expected = detectable_difference(1.0, 3, statistics.confidence, statistics.power)
    (x, first), (y, second) = least_differences(*given)
    assert (first, second) == ("Own, x", "Own, y")
    assert x == pytest.approx(expected) and y == 0.0
    assert least_difference({0: 1, 1: 3, 2: 2}, {0: 1, 1: 2, 2: 3}, statistics) == x
