"""The configuration: what it accepts, where results go, and errors that name culprit and cure."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from benchmarks.evidence.preflight import preflight
from manifold.errors import UserError
from manifold.settings import (
    ROOT,
    fingerprint,
    parse_words,
    read_yaml,
    resolve,
    to_plain,
    to_words,
    write_experiment,
)

SMOKE = {"scale": "smoke"}
CLAIMS = "results/reported/claims.csv"


SEEN_BY = {"mean": [0.5], "std": [0.5], "crop": 1.0, "interpolation": "bicubic"}


SP = read_yaml(ROOT / "config/methods.yaml")["sp"]


def recipe(**changes):
    return {**SMOKE, "recipes": {"A": changes}}


def pair(**changes):
    return {"pairs": {"deit-cait": changes}}


def detection(**changes):
    return {**SMOKE, "detection": changes}


def scenes(**changes):
    return detection(data={"scenes": changes})


FOLDER = dict.fromkeys(("train_images", "train_annotations", "test_images", "test_annotations"), "")


@pytest.mark.parametrize("scale", [path.stem for path in (ROOT / "config/scales").glob("*")])
def test_every_scale_resolves(scale):
    experiment = resolve({"scale": scale})
    assert experiment.scale == scale
    assert experiment.name == {"coco": "imagenet"}.get(scale, scale)  # whose students it reads


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"scale": "mni"}, ["'mni'", "Did you mean 'mini'?"]),
        ({"scale": 3}, ["'scale'", "got 3"]),
        ({"scale": "/nowhere/mine.yaml"}, ["/nowhere/mine.yaml", "no such configuration file"]),
        ({**SMOKE, "sedes": [0, 1]}, ["'sedes'", "Did you mean 'seeds'?"]),
        (
            {**SMOKE, "recipes": {"A": {"optimizer": {"learning_rat": 1}}}},
            ["recipes.A.optimizer", "'learning_rat'", "'learning_rate'", "--config"],
        ),
        ({**SMOKE, "recipes": {"A": {"batch_size": 1.5}}}, ["recipes.A.batch_size", "an integer"]),
        ({**SMOKE, "recipes": {"A": {"batch_size": "many"}}}, ["recipes.A.batch_size", "'many'"]),
        ({**SMOKE, "recipes": {"A": {"batch_size": 33}}}, ["recipes.A.batch_size", "even"]),
        ({**SMOKE, "recipes": {"A": {"distillation": {"alpha": 1.5}}}}, ["alpha", "[0, 1]"]),
        (
            {**SMOKE, "recipes": {"A": {"distillation": {"temperature": 0}}}},
            ["temperature", "positive"],
        ),
        ({**SMOKE, "recipes": {1: {}}}, ["a name in recipes must be text, got 1"]),
        ({**SMOKE, "machine": {"threads": True}}, ["machine.threads", "True"]),
        ({**SMOKE, "data": {"channels": 2}}, ["data.channels", "1, 3"]),
        ({**SMOKE, "data": {"channels": 3}}, ["data.mean", "1 values for 3"]),
        ({**SMOKE, "data": {"validation": -1}}, ["data.validation", "negative", "-1"]),
        (
            {**SMOKE, "data": {"validation": 0}, "evaluation_split": "validation"},
            ["data.validation is 0"],
        ),
        (recipe(shards=3), ["recipes.A.batch_size 128", "3 equal shards"]),
        (recipe(shards=128), ["recipes.A.batch_size", "even", "got 1"]),
        (recipe(repeats=0), ["recipes.A.repeats", "at least 1"]),
        (recipe(schedule={"lags_one_epoch": True}), ["schedule.lags_one_epoch", "per: epoch"]),
        (recipe(precision="float8"), ["recipes.A.precision", "'bfloat16'", "'float8'"]),
        ({**SMOKE, "machine": {"processes": 0}}, ["machine.processes", "at least 1"]),
        ({**SMOKE, "rehearsal": {"killed_after": 3}}, ["rehearsal.killed_after 3", "steps 3"]),
        ({**SMOKE, **pair(methods=["manifld"])}, ["pairs.deit-cait.methods", "'manifold'"]),
        (
            {**SMOKE, **pair(methods=["none", "manifold"])},
            ["table1.baseline", "pair 'deit-cait'", "add it"],
        ),
        ({**SMOKE, **pair(teacher={"recipe": None})}, ["teacher.recipe", "train the teacher"]),
        (
            {**SMOKE, **pair(teacher={"input": {**SEEN_BY, "mean": [0.5, 0.5]}})},
            ["teacher.input.mean", "2 values for 1 channel"],
        ),
        ({**SMOKE, "methods": ["soft_kd", "manifld"]}, ["'manifld'", "'manifold'"]),
        ({**SMOKE, "methods": []}, ["methods", "at least one"]),
        ({**SMOKE, "name": 12}, ["name must be text, got 12 (int)", "name='\"v1\"'"]),
        ({**SMOKE, "name": True}, ["name must be text, got True (bool)", "in quotes"]),
        ({**SMOKE, "methods": ["none", "soft_kd", "none"]}, ["methods", "none", "more than once"]),
        ({**SMOKE, "methods": ["none", "sp"]}, ["table1.baseline", "'soft_kd'", "add it"]),
        ({**SMOKE, "seeds": [0]}, ["seeds", "at least two"]),
        ({**SMOKE, "seeds": []}, ["seeds", "at least two"]),
        ({**SMOKE, "seeds": ["-1", "2"]}, ["seeds[0] must not be negative, got -1"]),
        ({**SMOKE, "results": ""}, ["results is empty", "path of a folder"]),
        ({**SMOKE, "name": "Published"}, ["name: 'Published'", "ships with the suite"]),
        ({**SMOKE, "results": "README.md"}, ["results: README.md is a file", "a folder"]),
        ({**SMOKE, "results": "README.md/x"}, ["results: README.md is a file", "README.md/x"]),
        ({**SMOKE, "results": {"x": ""}}, ["results must be text", "--config"]),
        ({**SMOKE, "results": "{x}"}, ["results must be a path without braces", "'{x}'"]),
        ({**SMOKE, "results": "null"}, ["results must be text, got None"]),
        ({**SMOKE, "claims": "{x}.csv"}, ["claims must be a path without braces"]),
        ({**SMOKE, "results": "a\udce6"}, ["results must be a path in ASCII", "PYTHONUTF8=1"]),
        ({**SMOKE, "name": "published"}, ["name: 'published'", "take another name"]),
        ({**SMOKE, "name": "reported"}, ["name: 'reported'", "take another name"]),
        (
            {**SMOKE, "method_definitions": {"mine": SP}},
            ["method_definitions.mine.title: 'SP' is sp's", "its own"],
        ),
        (
            {**SMOKE, "method_definitions": {"teacher": {**SP, "title": "Own"}}},
            ["methods", "'teacher'", "rename"],
        ),
        ({**SMOKE, "seeds": [1, 1]}, ["seeds", "1", "more than once"]),
        ({**SMOKE, "table1": {"pairs": ["deit"]}}, ["table1.pairs", "'deit'", "deit-cait"]),
        ({**SMOKE, "table1": {"recipe": "Z"}}, ["table1.recipe", "'Z'"]),
        ({**SMOKE, "table1": {"epochs": 0}}, ["table1.epochs", "at least 1"]),
        ({**SMOKE, "cohort": {"size": 0}}, ["cohort.size"]),
        ({**SMOKE, "statistics": {"confidence": 95}}, ["statistics.confidence"]),
        ({**SMOKE, "name": "../mini"}, ["'../mini'", "folder"]),
        (
            {**SMOKE, **pair(teacher={"weights": "nowhere.safetensors"})},
            ["pairs.deit-cait.teacher.weights", "nowhere.safetensors", "'train'"],
        ),
        ({**SMOKE, **pair(teacher={"recipe": "T"})}, ["teacher.recipe", "'T'"]),
        (
            {**SMOKE, **pair(layers={"paper": {"student": [0], "teacher": [0, 1]}})},
            ["layers.paper", "[0]", "[0, 1]"],
        ),
        (detection(pair="deit"), ["detection.pair", "'deit'", "deit-cait"]),
        (detection(recipe="Z"), ["detection.recipe", "'Z'", "A, B"]),
        (detection(methods=["soft_kd", "manifld"]), ["detection.methods", "'manifold'"]),
        (detection(methods=["none"]), ["detection.baseline", "'soft_kd'", "none"]),
        (detection(methods=["soft_kd", "soft_kd"]), ["detection.methods", "more than once"]),
        (detection(epochs=0), ["detection.epochs", "at least 1", "0"]),
        (detection(detectors={"a|b": "a.py"}), ["'a|b'", "names a folder"]),
        (detection(detectors=None), ["detection.detectors", "a mapping"]),
        (
            detection(detectors={"mask_rcnn": "config/detection/mini/mask_rcnn.py"}),
            ["detection.detectors.mask_rcnn", "no file", "Did you mean 'mask-rcnn.py'", "null"],
        ),
        (
            detection(detectors={"mask_rcnn": None, "retinanet": "null"}),
            ["detection.detectors", "at least one"],
        ),
        (detection(detectors={"a/b": "config/detection/mini/base.py"}), ["'a/b'", "letters"]),
        (detection(seeds=[1]), ["detection.seeds", "at least two"]),
        (detection(seeds=[1, 1]), ["detection.seeds", "more than once"]),
        (detection(seeds=[-1, 1]), ["detection.seeds", "negative"]),
        (
            {
                **detection(methods=["soft_kd", "random"]),
                "method_definitions": {"random": {**SP, "title": "Own"}},
            },
            ["detection.methods", "'random'", "rename"],
        ),
        (
            {
                **detection(methods=["soft_kd", "patch_embedding"]),
                "method_definitions": {"patch_embedding": {**SP, "title": "Own"}},
            },
            ["detection.methods", "'patch_embedding'", "detection.controls", "rename"],
        ),
        (detection(controls=["patch"]), ["detection.controls", "patch_embedding", "'patch'"]),
        (detection(controls=["random"] * 2), ["detection.controls", "random more than once"]),
        (detection(pictures=-1), ["detection.pictures", "negative", "-1"]),
        (
            detection(data={"scenes": None}),
            ["detection.data", "scenes, folder: give one of the two", "neither"],
        ),
        (
            detection(data={"folder": FOLDER}),
            ["detection.data", "scenes, folder: give one of the two", "both"],
        ),
        (detection(data={"channels": 2}), ["detection.data.channels", "1, 3"]),
        (scenes(item=[1, 2]), ["detection.data.scenes", "'item'", "'items'"]),
        (scenes(items=[0, 2]), ["scenes.items[0]", "at least 1", "0"]),
        (scenes(items=[3]), ["scenes.items", "2 values", "[3]"]),
        (scenes(sides=[16, 8]), ["scenes.sides", "smallest", "[16, 8]"]),
        (scenes(size=[64, 11]), ["scenes.size", "sides, 12", "[64, 11]"]),
        (scenes(size=[64]), ["scenes.size", "2 values", "[64]"]),
        (scenes(train=0), ["scenes.train", "at least 1"]),
        (scenes(test=0), ["scenes.test", "at least 1"]),
        (scenes(validation=0), ["scenes.validation", "at least 1"]),
        (
            {**scenes(validation=None), "evaluation_split": "validation"},
            ["evaluation_split 'validation'", "detection.data.scenes.validation"],
        ),
        (scenes(photographs={"validation": []}), ["photographs.validation", "at least one"]),
        (
            scenes(photographs={"validation": ["page.png", "moon.png"]}),
            ["validation, test: moon.png"],
        ),
        (scenes(tries=0), ["scenes.tries", "at least 1"]),
        (scenes(least_visible=0), ["scenes.least_visible", "(0, 1]"]),
        (scenes(brightness=1.5), ["scenes.brightness", "(0, 1]", "1.5"]),
        (scenes(foreground=1), ["scenes.foreground", "[0, 1)", "null"]),
        (scenes(photographs={"train": []}), ["photographs.train", "at least one"]),
        (
            scenes(photographs={"train": ["moon.png", "brick.png"]}),
            ["photographs", "train, test", "moon.png", "in train and in test"],
        ),
    ],
)
def test_a_bad_configuration_names_the_culprit(overrides, words):
    with pytest.raises(UserError) as error:
        resolve(overrides)
    for word in words:
        assert word in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            pair(student={"name": "deit_tiny_patch16_22"}),
            ["deit_tiny_patch16_22", "Did you mean", "deit_tiny_patch16_224"],
        ),
        (pair(student={"arguments": {"embed_dims": 24}}), ["deit_tiny_patch16_224", "embed_dims"]),
        (
            pair(layers={"paper": {"student": [0, 4], "teacher": [0, 1]}}),
            ["'manifold'", "layer 4", "4 blocks"],
        ),
        (
            pair(teacher={"model": {"arguments": {"patch_size": 4}}}),
            ["16 = 4×4", "4 = 2×2", "patch size"],
        ),
        (pair(distilled_student=None), ["'hard_kd_token'", "distilled_student"]),
        (
            pair(distilled_student={"name": "deit_tiny_patch16_224"}),
            ["'hard_kd_token'", "distillation token"],
        ),
        ({"recipes": {"A": {"batch_size": 5000}}}, ["recipes.A.batch_size", "5000", "1237"]),
        ({"data": {"validation": 1437}}, ["data.validation", "leaves nothing"]),
        (
            {"method_definitions": {"manifold": {"arguments": {"intre": 1}}}},
            ["'manifold'", "intre"],
        ),
        (
            {"method_definitions": {"sp": {"arguments": {"layers": "lst"}}}},
            ["'sp'", "'lst'", "'last'"],
        ),
        (
            {"method_definitions": {"sp": {"distiller": "baselines.sp:SPP"}}},
            ["'sp'", "baselines.sp:SPP"],
        ),
        (
            {"method_definitions": {"sp": {"arguments": {"layers": [0, 1]}}}},
            ["'sp'", "[0, 1]", "last"],
        ),
        (
            {"method_definitions": {"sp": {"arguments": {"weight": "big"}}}},
            ["'sp'", "'weight'", "'big'"],
        ),
        (
            {"method_definitions": {"manifold": {"arguments": {"samples": 0}}}},
            ["'manifold'", "'samples'"],
        ),
        ({"recipes": {"A": {"optimizer": {"name": "adamx"}}}}, ["adamx"]),
        ({"recipes": {"A": {"optimizer": {"learning_rate": -1}}}}, ["learning_rate", "-1"]),
        ({"recipes": {"A": {"optimizer": {"betas": [0.9]}}}}, ["betas", "0.9"]),
        ({"claims": "nowhere.csv"}, ["nowhere.csv"]),
        (
            {"table1": {"claims": {"deit-cait": {"none": "no-distilation"}}}},
            ["no-distilation", "no-distillation"],
        ),
    ],
)
def test_preflight_refuses_what_cannot_run(experiment, tmp_path, overrides, words):
    with pytest.raises(UserError) as error:
        preflight(experiment(**overrides), ["table1"])
    for word in words:
        assert word in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_preflight_finds_sizes_and_tokens(experiment):
    found = preflight(experiment(), ["table1"])
    assert found["splits"] == {"train": 1237, "validation": 200, "test": 360}
    methods = found["pairs"]["deit-cait"]["methods"]
    assert methods["manifold"]["student_tokens"][0] == "16 = 4×4"
    assert methods["fitnet"]["auxiliary_parameters"] == 24 * 32 + 32


def test_an_empty_list_of_methods_is_told_of_without_what_follows_from_it():
    with pytest.raises(UserError) as raised:
        resolve({**SMOKE, "methods": []})
    assert str(raised.value).startswith("methods is empty; name at least one method")
    assert "baseline" not in str(raised.value)


@pytest.mark.slow
def test_an_error_is_one_line_without_a_traceback(tmp_path, on_path):
    words = ["--config", "scale=smoke", "seeds=[0]"]
    command = ["python", "-m", "manifold", "train", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1
    assert done.stderr.startswith("error: seeds")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_tilde_is_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("extends: smoke\nseeds: [3, 4]\n", encoding="utf-8")
    for name in ("a.pth", "own.py", "claims.csv"):
        (tmp_path / name).touch()
    mine = {"dataset": "folder", "folder": "~/mine", "validation": 5}
    found = resolve(
        {
            "scale": "~/own.yaml",
            "results": "~/results",
            "claims": "~/claims.csv",
            "data": {"folder": "~/data"},
            "transfer": {"data": {"mine": mine}},
            "detection": {"detectors": {"own": "~/own.py"}},
            **pair(teacher={"weights": "~/a.pth"}),
        }
    )
    assert found.seeds == [3, 4] and found.directory.parent == tmp_path / "results"
    paths = [found.claims, found.data.folder, found.transfer.data["mine"].folder]
    paths += [found.detection.detectors["own"], found.pairs["deit-cait"].teacher.weights]
    names = ("claims.csv", "data", "mine", "own.py", "a.pth")
    assert paths == [f"{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, mark):
    own = tmp_path / "own.yaml"
    own.write_bytes(mark + "extends: smoke\ndescription: Pilze, weiß\n".encode())
    assert resolve({"scale": str(own)}).description == "Pilze, weiß"
    own.write_bytes(mark + "description: weiß".encode("latin-1"))
    with pytest.raises(UserError, match=r"own\.yaml is not UTF-8 .*save it in that encoding"):
        resolve({"scale": str(own)})


@pytest.mark.parametrize("place", [{"results": "file/below"}, {"name": "long" * 100}])
def test_a_folder_that_cannot_be_made_is_named(experiment, tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = experiment(**place)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be made .*choose another place"):
        write_experiment(made)


def test_a_name_that_is_used_again_for_other_settings_is_said(experiment, capsys):
    write_experiment(experiment(name="mine"))
    write_experiment(experiment(name="mine", seeds=[5, 6], methods=["soft_kd", "sp"]))
    new = {"mine": {**SP, "title": "Own"}}
    write_experiment(experiment(name="mine", seeds=[5, 6], method_definitions=new))
    assert capsys.readouterr().err == ""
    other = experiment(name="mine", data={"validation": 150}, recipes={"A": {"ema_decay": 0.5}})
    write_experiment(other)  # after a check that was refused: there is no run
    assert capsys.readouterr().err == ""
    write_experiment(experiment(name="mine"))
    run = other.cell_directory("deit-cait", "A", 2, "sp", 0) / "run.json"
    run.parent.mkdir(parents=True)
    run.touch()
    write_experiment(other)
    said = capsys.readouterr().err
    assert f"{other.directory} holds runs of other settings, and its name is used again" in said
    assert "data.validation was " in said and "is 150" in said and "recipes.A.ema_decay" in said
    write_experiment(other)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_locale_without_utf_8_changes_nothing(tmp_path):
    """Files are written and read as UTF-8 whatever the locale is, and no letter stops a command."""
    code = (
        "import sys, pandas as pd\n"
        "from pathlib import Path\n"
        "from benchmarks.evidence.document import Document\n"
        "from manifold.settings import read_experiment, resolve, write_experiment\n"
        "own = {'scale': 'smoke', 'results': sys.argv[1], 'description': '\\u65b9 \\xd7'}\n"
        "made = resolve(own)\n"
        "assert read_experiment(write_experiment(made)) == made\n"
        "rows = pd.DataFrame({'a': ['\\u65b9']})\n"
        "Document('T', '\\xd7', [rows], {'': rows}, [(rows, '')]).write(Path(sys.argv[1]), 't')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert all("方" in (tmp_path / f"t.{end}").read_text("utf-8") for end in ("md", "csv", "tex"))


def test_ones_own_images_are_held_to_no_claim():
    assert resolve({"scale": "folder", "data": {"folder": "mine"}}).claims is None
    assert all(resolve({"scale": scale}).claims for scale in ("smoke", "mini", "imagenet"))


def test_results_stand_apart_when_something_that_shapes_weights_changes():
    assert resolve(SMOKE).name == "smoke"
    assert resolve({**SMOKE, "seeds": [5, 6], "methods": ["soft_kd", "sp"]}).name == "smoke"
    names = {
        resolve({**SMOKE, **overrides}).name
        for overrides in (
            {"data": {"validation": 150}},
            {"recipes": {"A": {"batch_size": 16}}},
            pair(student={"arguments": {"depth": 5}}),
            {"method_definitions": {"manifold": {"arguments": {"intra": 1.0}}}},
        )
    }
    assert len(names) == 4 and all(name.startswith("smoke-") for name in names)
    title = {"method_definitions": {"sp": {"title": "Similarity"}}}
    assert resolve({**SMOKE, **title}).name == "smoke"  # which shapes no weights
    assert resolve({**SMOKE, "name": "mine", "data": {"validation": 150}}).name == "mine"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"detection": {"detectors": {"retinanett": None}}}, "Did you mean 'retinanet'"),
        ({"detection": {"detectors": {"retinanett": "null"}}}, "detection.detectors: unknown"),
        ({"transfer": {"data": {"texture": None}}}, "Did you mean 'textures'"),
        ({"table1": {"claims": {"deit-cat": {}}}}, "table1.claims: unknown 'deit-cat'"),
        ({"table1": {"claims": {"deit-cait": {"nonee": "headline"}}}}, "Did you mean 'none'"),
    ],
)
def test_a_name_that_nothing_has_is_refused_where_it_would_change_nothing(section, words):
    with pytest.raises(UserError, match=words):
        resolve({**SMOKE, **section})


def test_a_key_that_is_given_twice_is_an_error(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("extends: smoke\ntable1:\n  epochs: 1\n  epochs: 2\n", "utf-8")
    with pytest.raises(UserError, match=r"twice.yaml: line 4: the key 'epochs' is given twice"):
        resolve({"scale": str(path)})


@pytest.mark.parametrize("null", [None, "null"])  # of YAML, and of Snakemake's --config
def test_a_detector_is_dropped_by_null(null):
    detectors = resolve(detection(detectors={"retinanet": null})).detection.detectors
    assert detectors == {"mask_rcnn": "config/detection/mini/mask-rcnn.py"}


@pytest.mark.parametrize(
    ("seeds", "at_once", "jobs"),
    [
        ([0, 1], 2, {0: [4], 1: [4]}),
        ([0, 1, 2], 2, {0: [4], 1: [4], 2: [2, 2], 9: [4]}),  # 9: detection.seeds may ask for it
        ([1, 11, 2], 2, {1: [4], 11: [4], 2: [2, 2], 12: [4]}),
        ([5, 6, 7], 1, {5: [4], 7: [4]}),
        ([0, 1], 6, {0: [2, 1, 1], 1: [2, 1, 1]}),
        ([0, 1], 16, {0: [1, 1, 1, 1]}),  # no part is empty
        ([0, 1, 2], 8, {0: [2, 2], 1: [2, 2], 2: [2, 2]}),
        ([0, 1, 2], 4, {0: [4], 1: [4], 2: [4]}),
    ],
)
def test_last_seeds_are_cut_so_that_no_job_is_idle(seeds, at_once, jobs):
    made = resolve({**SMOKE, "seeds": seeds, "cohort": {"size": None, "parallel_jobs": at_once}})
    methods = ["none", "soft_kd", "sp", "manifold"]
    for seed, sizes in jobs.items():
        found = [
            part
            for part, own in made.jobs(("deit-cait", "A", 2), methods)
            if re.fullmatch(own, str(seed))
        ]
        assert [len(part) for part in found] == sizes
        assert sorted(method for part in found for method in part) == sorted(methods)
    assert made.jobs(("deit-cait", "A", 2), ["rkd"]) == [(["rkd"], r"\d+")]


def test_the_parts_of_a_seed_cost_alike():
    made = resolve({**SMOKE, "seeds": [0, 1, 2], "cohort": {"size": None, "parallel_jobs": 2}})
    methods = ["none", "soft_kd", "manifold", "manifold_full"]  # the two last ones cost most
    _, first, second = made.jobs(("deit-cait", "A", 2), methods)
    assert first == (["none", "manifold"], "2") and second == (["soft_kd", "manifold_full"], "2")


def test_without_held_out_images_detection_has_no_validation_scenes():
    splits = [
        resolve({**SMOKE, "data": {"validation": held_out}}).studies["detection"].splits
        for held_out in (0, 200)
    ]
    assert splits == [["train", "test"], ["train", "validation", "test"]]


def test_detection_trains_only_what_table_1_lacks():
    key = ("deit-cait", "A", 2)
    assert (
        resolve(SMOKE).trainings()[key] == resolve(detection(methods=["soft_kd"])).trainings()[key]
    )
    cohorts = resolve(detection(methods=["soft_kd", "rkd"])).trainings()[key]
    assert ["rkd"] in cohorts
    assert [method for cohort in cohorts for method in cohort].count("soft_kd") == 1
    assert resolve(detection(epochs=3)).trainings()["deit-cait", "A", 3] == [
        ["soft_kd", "manifold"]
    ]


def test_ones_own_method_becomes_a_backbone_too():
    mine = {"mine": {**SP, "title": "Own"}}
    given = {**SMOKE, "method_definitions": to_plain(mine)}
    assert resolve(given).detection.methods == [*resolve(SMOKE).detection.methods, "mine"]
    listed = {**given, "detection": {"methods": ["soft_kd"]}}
    assert resolve(listed).detection.methods == ["soft_kd"]
    assert resolve({**given, "detection": None}).detection is None


def test_restating_a_value_of_the_scale_changes_nothing():
    assert resolve({**SMOKE, "data": {"validation": "200"}}) == resolve(SMOKE)


def test_words_survive_the_way_to_a_job():
    overrides = {"scale": "smoke", "seeds": [3, 4], "data": {"validation": 150}, "name": None}
    assert parse_words(to_words(overrides)) == overrides


def test_snakemakes_text_is_read_as_the_type_that_is_asked_for():
    text = {
        "seeds": ["7", "8"],
        "recipes": {"A": {"mixing": "null", "optimizer": {"learning_rate": "1e-3"}}},
        "method_definitions": {"manifold": {"arguments": {"inter": "0.5"}}},
    }
    experiment = resolve({**SMOKE, **text})
    assert experiment.seeds == [7, 8]
    assert experiment.recipes["A"].mixing is None
    assert experiment.recipes["A"].optimizer.learning_rate == 0.001
    assert experiment.method_definitions["manifold"].arguments["inter"] == 0.5


def test_a_word_without_a_value_is_refused():
    with pytest.raises(UserError, match="key=value"):
        parse_words(["scale"])


def test_a_scale_of_ones_own_may_extend_another(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"extends": "smoke", "data": {"validation": 100}}), encoding="utf-8"
    )
    experiment = resolve({"scale": str(path)})
    assert (experiment.name, experiment.data.validation) == ("mine", 100)
    assert experiment.pairs == resolve(SMOKE).pairs


def test_identities_are_plain_and_tell_cells_apart():
    experiment = resolve(SMOKE)
    key = ("deit-cait", "A", 2)
    identity = experiment.cell_identity(*key, "manifold", 0)
    assert json.loads(json.dumps(identity)) == identity
    others = [
        experiment.cell_identity(*key, "manifold", 1),
        experiment.cell_identity(*key, "sp", 0),
        experiment.cell_identity("deit-cait", "A", 5, "manifold", 0),
    ]
    assert len({fingerprint(i) for i in [identity, *others]}) == 4


@pytest.mark.parametrize(
    "distiller", ["baselines.sp:SimilarityPreserving", "baselines.fitnet:FitNet"]
)
def test_a_method_of_layers_without_layers_is_refused(experiment, distiller):
    mine = {
        "title": "Mine",
        "distiller": distiller,
        "arguments": {"weight": "3e3"},
        "student": "student",
        "source": "none",
    }
    made = experiment(methods=["soft_kd", "mine"], method_definitions={"mine": mine})
    with pytest.raises(UserError, match=r"'mine'.*needs the argument 'layers'"):
        preflight(made, ["table1"])


@pytest.mark.slow
def test_a_pair_of_the_papers_is_the_same_configuration_with_other_words(experiment):
    def model(name):
        return {"name": name, "arguments": {}}

    last = [*range(4), *range(8, 12)], [*range(4), *range(20, 24)]
    maps = {"paper": dict(zip(("student", "teacher"), last, strict=True))}
    teacher = {"weights": "train", "recipe": "A", "epochs": 300, "seed": 0, "input": None}
    paper = {
        "student": model("deit_tiny_patch16_224"),
        "distilled_student": model("deit_tiny_distilled_patch16_224"),
        "lifted_student": None,
        "widened_student": None,
        "teacher": {"model": model("cait_xxs24_224"), **teacher},
        "layers": maps,
        "most_tokens": 196,
        "methods": None,
    }
    colour = {"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 224}
    made = experiment(
        data=colour,
        pairs={"paper": paper},
        methods=["soft_kd", "manifold"],
        table1={"pairs": ["paper"]},
    )
    # The smoke scale's own pairs would have 12,544 tokens at this size.
    alone = {"pairs": {"paper": made.pairs["paper"]}}
    alone |= dict.fromkeys(("transfer", "ablation", "detection"))
    found = preflight(made.replaced(**alone), ["table1"])
    method = found["pairs"]["paper"]["methods"]["manifold"]
    assert method["student_parameters"] == 5_717_416 - 990 * 193  # timm's count, with 10 classes
    assert set(method["student_tokens"].values()) == {"196 = 14×14"}
    assert set(method["teacher_tokens"]) == set(last[1])


# ---- what config/README.md says can stand in --config ------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("null", [None, "null", "~"])
@pytest.mark.parametrize("section", [key for key in resolve({"scale": "mini"}).study_kinds])
def test_null_takes_any_study_away(section, null):
    whole = resolve({"scale": "mini"})
    kinds = whole.study_kinds
    gone = {kind.name for key, kind in kinds.items() if section in (key, *kind.needs)}
    left = resolve({"scale": "mini", section: null}).studies
    assert set(left) == set(whole.studies) - gone


def test_a_recipe_is_a_file_or_extends_one():
    def recipe(given):
        return resolve({"scale": "mini", "recipes": {"A": given}}).recipes["A"]

    other = "config/recipes/mini-teacher.yaml"
    assert recipe(other) == resolve({"scale": "mini"}).recipes["teacher"]
    changed = recipe({"extends": other, "batch_size": "32"})
    assert changed == recipe(other).replaced(batch_size=32)
    with pytest.raises(UserError, match=r"nofile.yaml: no such"):
        recipe("nofile.yaml")
    with pytest.raises(UserError, match=r"config cannot be read: Is a directory"):
        recipe("config")
    with pytest.raises(UserError, match=r"recipes.A: unknown key 'extends'|extends"):
        recipe({"extends": 3})


def test_cifar100_is_the_papers_kind_of_pair_on_one_gpu_and_can_be_rehearsed():
    made, paper = resolve({"scale": "cifar100"}), resolve({"scale": "imagenet"})
    pair = made.pairs["deit-cait"]
    assert pair.layers == paper.pairs["deit_tiny-cait_s24"].layers
    assert pair.teacher.weights == "train" and made.machine.processes == 1
    assert made.claims is None and made.data.dataset == "cifar100"
    own, theirs = to_plain(made.recipes["A"]), to_plain(paper.recipes["A"])
    assert {key for key in own if own[key] != theirs[key]} == {
        *("repeats", "precision", "augmentation", "ema_decay")
    }
    assert {path.name for path in made.studies["rehearsal"].results()} == {"A.json"}
    assert set(made.trainings()) == {("deit-cait", "A", epochs) for epochs in (20, 200)}


def test_a_scales_words_and_claims_are_not_said_of_other_data(tmp_path):
    folder = {"dataset": "folder", "folder": "photographs"}
    made = resolve({"scale": "smoke", "data": folder})
    assert made.description == "data folder 8×8, otherwise as scale smoke"
    assert made.claims is None
    own = resolve({"scale": "smoke", "data": folder, "description": "mine", "claims": CLAIMS})
    assert (own.description, own.claims) == ("mine", CLAIMS)
    paper = resolve({"scale": "imagenet", "data": {"dataset": "cifar100", "folder": "cifar"}})
    assert paper.reported_dataset is None
    assert resolve({"scale": "imagenet"}).reported_dataset == "imagenet1k"
    path = tmp_path / "cifar.yaml"
    path.write_text("extends: imagenet\ndata: {dataset: cifar100, folder: cifar}\n", "utf-8")
    in_a_file = resolve({"scale": str(path)})
    assert in_a_file.description.startswith("data cifar100 224×224, otherwise as scale imagenet")
    assert in_a_file.reported_dataset is None
    same = resolve({"scale": "smoke", "data": {"dataset": "digits", "image_size": "8"}})
    assert same.description == resolve({"scale": "smoke"}).description
