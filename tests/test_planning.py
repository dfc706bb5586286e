"""What `snakemake -n` plans: exactly what a change touches, from anywhere, and never torch.

The files of a whole run are made empty, and Snakemake told that they are done; so every study is
planned in seconds.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import running
import yaml

from manifold.errors import UserError
from manifold.settings import CELL_FILES, ROOT, refuse_repeated, resolve, sources
from manifold.settings.recorded import RECORDS, expected_fingerprint, record_path
from manifold.settings.sources import job_hash, source_hash
from manifold.settings.stale import code_of_job, tell_code

pytestmark = pytest.mark.slow

SCALE = "scale=smoke"
COPIED = ("Snakefile", "workflow", "config", "profiles", "manifold", "baselines", "benchmarks")


@pytest.fixture(scope="module", autouse=True)
def _warm(on_path):
    """Let every Snakemake start at once."""


def snakemake(folder, *arguments, **environment):
    return running.snakemake(folder, "--cores", "1", *arguments, **environment)


def planned(folder, *arguments):
    """The rules that a dry run plans, and how many jobs of each."""
    done = snakemake(folder, "-n", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {rule: int(count) for rule, count in jobs if rule != "total"}


def stand_as_finished(folder, scale, *targets):
    """Make the files of all studies of a scale, empty, and let Snakemake take them as done."""
    for name in (*COPIED, "results/reported", "results/published"):
        (folder / name).parent.mkdir(exist_ok=True)
        os.symlink(ROOT / name, folder / name)
    experiment = resolve({"scale": scale})
    paths = [experiment.directory / "preflight.json"]
    for pair in experiment.pairs:
        teacher = experiment.teacher_directory(pair)
        paths += [teacher / name for name in (*CELL_FILES, "evaluation.json")]
        paths += [teacher / f"untrained.{suffix}" for suffix in ("safetensors", "json")]
    for study in experiment.studies.values():
        paths += [*study.files(), *study.cells(), *study.results()]
        for job in study.jobs():
            made = [experiment.directory / path for path in job.outputs if "{" not in path]
            paths += [path / "made" if job.is_folder else path for path in made]
    for study in map(experiment.studies.get, ("transfer", "segmentation")):
        for seed in study.seeds if study else []:
            paths += study.untrained_files(seed)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    take_as_done(folder, scale, *targets)


def take_as_done(folder, scale, *words):
    done = snakemake(folder, *words, "--touch", "--config", f"scale={scale}")
    assert done.returncode == 0, done.stdout + done.stderr


ASKED_FOR = ("rehearse", "rehearse_detection", "reproduce_cost")  # which `all` leaves out


@pytest.fixture(scope="module")
def touched(tmp_path_factory):
    """A folder in which every study stands as finished, its name with a space."""
    folder = tmp_path_factory.mktemp("a folder")
    stand_as_finished(folder, "smoke", "all", *ASKED_FOR, "--forceall")
    return folder


def test_a_seed_that_leaves_a_job_idle_is_trained_in_parts(touched):
    # Two jobs run at once, so a third seed is cut in two.
    found = planned(touched, "reproduce_table1", "--config", SCALE, "seeds=[0, 1, 2]")
    assert found == {
        **{f"train_deit_cait_A_2_{number}": 1 for number in (1, 2)},
        "table1": 1,
        "reproduce_table1": 1,
    }


RECIPES_OF_ONE_RULE_NAME = """
recipes:
  A.1: {extends: config/recipes/smoke.yaml, drop_path: 0.3}
  A-1: {extends: config/recipes/smoke.yaml, drop_path: 0.2}
recipe_study:
  factors: {one: {recipe: A.1, epochs_factor: 1}, another: {recipe: A-1, epochs_factor: 1}}
"""


def test_recipes_whose_names_differ_in_punctuation_are_trained_and_rehearsed(touched, tmp_path):
    given = tmp_path / "given.yaml"
    given.write_text(f"scale: smoke\n{RECIPES_OF_ONE_RULE_NAME}", encoding="utf-8")
    found = planned(touched, "reproduce_recipes", "rehearse", "--configfile", str(given))
    trained = {rule for rule in found if re.fullmatch(r"train_deit_cait_A_1_[12]_\d", rule)}
    assert len(trained) == 4 and found["rehearsal_pair"] == 2  # A and B are finished
    assert planned(touched, "rehearse", "--config", "scale=mini")["rehearsal_pair"] == 5


def test_what_is_done_is_not_planned_again(touched):
    assert planned(touched, "all", "figures", "--config", SCALE) == {}


@pytest.mark.parametrize(
    ("word", "rules"),
    [
        ("table1={claims: {deit-cait: {sp: headline}}}", {"table1", "bench"}),
        ("bench={methods: [nkd]}", {"bench"}),
        ("bench={methods: [nkd, cka, rkd]}", {"bench", "train_deit_cait_A_2_1"}),
        ("recipe_study={epochs: [1, 3]}", {"recipes", "train_deit_cait_A_3_0"}),
        ("recipe_study={public_curves: config/config.yaml}", {"recipes"}),
        ("budgets={epochs: [1, 2, 3]}", {"budgets", "train_deit_cait_A_3_0"}),
        ("ablation={epochs: 3}", {"ablation", "train_deit_cait_A_3_0"}),
        ("ablation={groups: {Teacher: []}}", {"ablation"}),
        ("transfer={draws: 3}", {"transfer", "transfer_probes"}),
        ("transfer={data: {faces: {epochs: 2}}}", {"transfer", "transfer_fine_tuning"}),
        ("transfer={data: {faces: null}}", {"transfer"}),
        ("maps={batch: 32}", {"maps", "maps_measure"}),
        ("maps={shown_methods: [none]}", {"maps"}),
        ("maps={methods: [manifold, soft_kd, none]}", {"maps"}),
        ("curves={baseline: none}", {"curves"}),
        ("detection={pictures: 1}", {"detection"}),
        ("detection={options: {train_cfg.max_epochs: 2}}", {"detection", "detection_train"}),
        ("detection={data: {masks: false}}", {"detection", "detection_train"}),
        ("segmentation={pictures: 1}", {"segmentation"}),
        ("segmentation={frozen: {epochs: 1}}", {"segmentation", "segmentation_train"}),
        ("segmentation={seeds: [1, 0]}", {"segmentation"}),
        (
            "methods=[manifold_full, manifold, sp, fitnet, hard_kd_token, soft_kd, none]",
            {"table1", "bench"},
        ),
        ("rehearsal={steps: 4}", set()),
        ("detection_rehearsal={objects: 7}", set()),
        ("machine={threads: 2, workers: 1}", set()),
        ("machine={device: cuda, processes: 2}", set()),
        (
            "description=others",
            {"table1", "bench", "recipes", "budgets", "ablation", "transfer", "curves", "maps"}
            | {"detection", "segmentation"},
        ),
        ("seeds=[0, 1]", set()),
        ("results=results", set()),
    ],
)
def test_a_change_plans_what_it_touches(touched, word, rules):
    found = set(planned(touched, "all", "--config", SCALE, word)) - {"all"}
    # Of the trainings that a budget of its own asks for, one stands for all; and what a study's
    # data are prepared by is the study's.
    own = {"detection_prepare"}
    trainings = {rule for rule in found if rule.startswith("train_")}
    wanted = {rule for rule in rules if rule.startswith("train_")}
    assert found - trainings - own == rules - wanted
    assert bool(trainings) == bool(wanted) and wanted <= trainings


@pytest.mark.parametrize(
    ("target", "word", "rules"),
    [
        ("rehearse", "rehearsal={steps: 4}", {"rehearsal_images", "rehearsal_pair", "rehearsal"}),
        (
            "rehearse_detection",
            "detection_rehearsal={objects: 7}",
            {"rehearsal_detection_folder", "rehearsal_detection_detector", "rehearsal_detection"},
        ),
        ("reproduce_cost", "cost={losses: {rounds: 3}}", {"cost_losses", "cost_steps", "cost"}),
        ("reproduce_cost", "cost={steps: {images: 16}}", {"cost_steps", "cost"}),
        ("reproduce_cost", "cost={steps: {operators: 5}}", {"cost"}),
        ("rehearse", "rehearsal={workers: 3}", {"rehearsal_pair", "rehearsal"}),
        ("rehearse", "rehearsal={training_images: 7}", {"rehearsal"}),
        (
            "rehearse_detection",
            "detection_rehearsal={counted_size: [64, 64]}",
            {"rehearsal_detection_detector", "rehearsal_detection"},
        ),
    ],
)
def test_a_change_plans_what_it_touches_of_a_study_that_is_asked_for(touched, target, word, rules):
    assert not planned(touched, target, "--config", SCALE)
    assert set(planned(touched, target, "--config", SCALE, word)) == {*rules, target}
    assert not planned(touched, "all", "--config", SCALE, word)


def test_a_title_measures_nothing_again(touched):
    title = "method_definitions={manifold: {title: Other}}"
    assert not planned(touched, "reproduce_cost", "--config", SCALE, title)


@pytest.mark.parametrize(
    ("scale", "target", "changes"),
    [
        (
            "mini",
            "reproduce_hierarchical",
            {
                "hierarchical={epochs: 3}": {"train_swin_swin_A_3_0", "hierarchical"},
                "hierarchical={baseline: none}": {"hierarchical"},
            },
        ),
        (
            "smoke",
            "reproduce_transfer",
            {
                "transfer={data: {faces: {epochs: 2}}}": {"transfer_fine_tuning", "transfer"},
                "transfer={draws: 3}": {"transfer_probes", "transfer"},
            },
        ),
        (
            "mini-choice",
            "choose",
            {
                "choice={epochs: [3]}": {"train_deit_cait_b64_lr2_3_0", "choice"},
                "choice={recipes: [b64-lr2]}": {"choice"},
            },
        ),
    ],
)
def test_a_change_plans_what_it_touches_where_every_job_is_on_record(
    tmp_path, scale, target, changes
):
    stand_as_finished(tmp_path, scale, target, "--forceall")
    assert not planned(tmp_path, target, "--config", f"scale={scale}")
    for word, rules in changes.items():
        found = set(planned(tmp_path, target, "--config", f"scale={scale}", word))
        trainings = {rule for rule in found if rule.startswith("train_")}
        wanted = {rule for rule in rules if rule.startswith("train_")}
        assert found - trainings == {*rules - wanted, target}
        assert bool(trainings) == bool(wanted) and wanted <= trainings


def write_record(folder, experiment, key, **changes):
    """The run.json of a cell as it is asked for, as old as the file that it replaces."""
    record = {
        "fingerprint": expected_fingerprint(experiment, key),
        "source_hash": source_hash(experiment.method_definitions[key[3]].distiller),
    }
    path = folder / experiment.cell_directory(*key) / "run.json"
    before = path.stat()
    path.write_text(json.dumps(record | changes), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_cohort_is_trained_again_for_a_cell_that_is_something_else_and_for_no_other(
    tmp_path, monkeypatch
):
    stand_as_finished(tmp_path, "smoke", "reproduce_table1", "--forceall")
    monkeypatch.chdir(tmp_path)
    experiment = resolve({"scale": "smoke"})
    (((pair, recipe, epochs), methods),) = experiment.studies["table1"].students().items()
    assert len(methods) > 2 and len(experiment.seeds) == 2
    cells = [
        (pair, recipe, epochs, method, seed) for method in methods for seed in experiment.seeds
    ]
    for cell in cells:
        write_record(tmp_path, experiment, cell)
    # Its first method is left out, so the first seed's cohort is smaller, and cut otherwise.
    smaller = f"methods=[{', '.join(methods[1:])}]"

    def trainings(*words):
        found = planned(tmp_path, "reproduce_table1", "--config", SCALE, *words)
        return sum(count for rule, count in found.items() if rule.startswith("train_"))

    for changes in ({"fingerprint": "of another rate"}, {"fingerprint": "of another width"}):
        assert trainings() == trainings(smaller) == trainings(smaller, "seeds=[1, 0]") == 0
        write_record(tmp_path, experiment, cells[0], **changes)
        assert trainings() == 1 and trainings(smaller) == 0
        take_as_done(tmp_path, "smoke", "reproduce_table1")  # Snakemake's record of its job
        write_record(tmp_path, experiment, cells[0])
    write_record(tmp_path, experiment, cells[0], source_hash="of older code")
    assert trainings() == 0 and trainings("stale=retrain") == 1


STUDENT = "pairs={deit-cait: {student: {arguments: {depth: 5}}}}"


@pytest.mark.parametrize("word", [STUDENT, "evaluation_split=validation"])
def test_every_detector_follows_the_student_and_the_split_random_weights_too(touched, word):
    words = ("--config", SCALE, word, "name=smoke")
    detection = resolve({"scale": "smoke"}).studies["detection"]
    cells = len(detection.backbones) * len(detection.settings.detectors) * len(detection.seeds)
    assert planned(touched, "reproduce_detection", *words)["detection_train"] == cells


def test_what_a_job_made_of_older_code_is_planned_where_that_is_asked_and_once(tmp_path):
    targets = ("reproduce_transfer", "reproduce_maps")
    stand_as_finished(tmp_path, "smoke", *targets, "--forceall")
    experiment = resolve({"scale": "smoke"})
    transfer, maps = (experiment.studies[name] for name in ("transfer", "maps"))
    made = {
        "benchmarks.transfer.probes": [p for p in transfer.results() if p.name == "probes.json"],
        "benchmarks.maps.measure": [p for p in maps.results() if p.name == "maps.json"],
    }

    def record(**changes):
        for module, paths in made.items():
            for path in paths:
                before = (tmp_path / path).stat()
                text = json.dumps({"source_hash": job_hash(module)} | changes)
                (tmp_path / path).write_text(text, encoding="utf-8")
                os.utime(tmp_path / path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def jobs(*words):
        found = planned(tmp_path, *targets, "--config", SCALE, *words)
        return {rule for rule in found if rule in ("transfer_probes", "maps_measure")}

    for seed in transfer.seeds:
        untrained = [tmp_path / path for path in transfer.untrained_files(seed)]
        tell_code(untrained, job_hash("benchmarks.transfer.untrained"))
    record(source_hash="0" * 64)
    assert jobs() == set()
    assert jobs("stale=retrain") == {"transfer_probes", "maps_measure"}
    # What is made for another reason is of the code that stands, and is planned no second time.
    assert jobs("transfer={draws: 3}") == {"transfer_probes"}
    done = snakemake(tmp_path, *targets, "--touch", "--config", SCALE, "transfer={draws: 3}")
    assert done.returncode == 0
    record()
    assert jobs("transfer={draws: 3}") == jobs("transfer={draws: 3}", "stale=retrain") == set()


def test_what_has_no_record_of_its_code_is_planned_where_that_is_asked_and_once(tmp_path):
    targets = ("all", *ASKED_FOR)
    stand_as_finished(tmp_path, "smoke", *targets, "--forceall")
    experiment = resolve({"scale": "smoke"})
    made = {
        ("manifold.training.untrained", None, "initialise_teacher"): ["teachers/*/untrained.json"],
        ("manifold.training.teacher", None, "evaluate_teacher"): ["teachers/*/evaluation.json"],
        **{
            (
                job.run.partition(":")[0],
                job.method,
                re.sub(r"\W", "_", f"{study.name}_{job.name}"),
            ): [re.sub(r"{\w+}", "*", job.outputs[0])]
            for study in experiment.studies.values()
            for job in study.jobs()
        },
    }
    folder = tmp_path / experiment.directory

    def told(change):
        for (module, method, _), patterns in made.items():
            code = code_of_job(experiment, module, method)
            for path in [path for pattern in patterns for path in folder.glob(pattern)]:
                tell_code([path], change(code))

    def jobs(*words):
        return set(planned(tmp_path, *targets, "--config", SCALE, *words)) - set(targets)

    told(lambda code: code)
    assert jobs() == jobs("stale=retrain") == set()
    told(lambda code: "of older code")
    assert jobs() == set()
    rules = {rule for _, _, rule in made}
    assert rules >= {"transfer_initialise", "segmentation_initialise", "detection_prepare"}
    assert rules >= {"cost_steps", "rehearsal_pair", "rehearsal_detection_detector"}
    assert rules <= jobs("stale=retrain")


@pytest.mark.parametrize(
    ("edited", "rules"),
    [
        ("manifold.training.untrained", {"transfer_initialise", "segmentation_initialise"}),
        ("benchmarks.scenes.compose", {"segmentation_prepare", "detection_prepare"}),
        ("baselines.sp", set()),
    ],
)
def test_the_hash_of_a_job_covers_what_makes_its_outputs(edited, rules):
    studies = resolve({"scale": "smoke"}).studies
    found = {
        f"{study.name}_{job.name}"
        for study in studies.values()
        for job in study.jobs()
        if job.name in ("initialise", "prepare")
        and edited in sources.covered_by_job(job.run.partition(":")[0])
    }
    assert found == rules


def test_an_untrained_student_without_its_record_is_made_again(tmp_path):
    stand_as_finished(tmp_path, "smoke", "reproduce_transfer", "--forceall")
    study = resolve({"scale": "smoke"}).studies["transfer"]
    (tmp_path / study.untrained_files(0)[1]).unlink()
    words = ("--config", SCALE, "transfer={draws: 3}")  # so that the student is asked for
    assert planned(tmp_path, "reproduce_transfer", *words)["transfer_initialise"] == 1


def test_a_change_of_ones_data_plans_one_data_sets_jobs(touched):
    jobs = planned(touched, "all", "--config", SCALE, "transfer={data: {faces: {validation: 20}}}")
    seeds = len(resolve({"scale": "smoke"}).seeds)
    # Fine-tuning is on all images, whatever is held out.
    assert jobs == {"transfer_probes": seeds, "transfer": 1, "all": 1}
    assert not any(rule.startswith("train_") for rule in jobs)


def test_one_more_seed_plans_what_is_of_this_seed(touched):
    """The jobs of the seeds that are done stay, beside the tables."""
    words = ("--config", SCALE, "seeds=[0, 1, 2]")
    studies = resolve({"scale": "smoke"}).studies
    jobs = planned(touched, "reproduce_transfer", *words)
    data = len(studies["transfer"].settings.data)
    assert jobs["transfer_initialise"] == 1
    assert jobs["transfer_probes"] + jobs["transfer_fine_tuning"] == 2 * data
    jobs = planned(touched, "reproduce_segmentation", *words)
    assert jobs["segmentation_initialise"] == 1 and "segmentation_prepare" not in jobs
    assert jobs["segmentation_train"] == len(studies["segmentation"].backbones)
    jobs = planned(touched, "reproduce_detection", "reproduce_maps", *words)
    detection = studies["detection"]
    assert jobs["detection_train"] == len(detection.backbones) * len(detection.settings.detectors)
    assert jobs["maps_measure"] == 1 and "detection_prepare" not in jobs


def test_a_second_config_is_refused_and_what_would_be_lost_is_named(touched):
    done = snakemake(touched, "-n", "--config", "scale=imagenet", "--config", "seeds=[0, 1]")
    assert done.returncode != 0
    assert "'--config scale=imagenet' would be ignored" in done.stdout + done.stderr


@pytest.mark.parametrize("word", ["detction={pictures: 8}", "table1={epoch: 3}", "seeds"])
def test_a_word_that_nothing_reads_is_refused(touched, word):
    done = snakemake(touched, "-n", "--config", SCALE, word)
    assert done.returncode != 0 and "results/smoke" not in done.stdout


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["scale=smok"], "error: unknown scale 'smok'. Did you mean 'smoke'?"),
        (
            [SCALE, "method_definitions={sp: {distiller: 'broken:Mine'}}"],
            "broken.py is not Python: ",  # found when jobs are planned, not when keys are read
        ),
    ],
)
def test_the_last_words_are_the_error(touched, words, last):
    (touched / "broken.py").write_text("def (", encoding="utf-8")
    done = snakemake(touched, "-n", "--config", *words)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("error: ") and last in line


def test_a_record_that_is_damaged_is_told_without_a_traceback(touched, experiment):
    key = experiment().studies["table1"].needed()[0]
    path = record_path(touched / "results/damaged" / RECORDS, key)
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    done = snakemake(touched, "-n", "--config", SCALE, "name=damaged")
    output = done.stdout + done.stderr
    assert done.returncode != 0 and 'File "' not in output
    assert f"{path.relative_to(touched)} is no record" in output.splitlines()[-1]


def test_a_method_that_is_not_python_is_told_without_a_traceback(touched):
    (touched / "broken.py").write_text("class Mine(:\n", encoding="utf-8")
    mine = {"title": "Mine", "distiller": "broken:Mine", "arguments": {}, "student": "student"}
    methods = {"method_definitions": {"mine": {**mine, "source": "none"}}}
    (touched / "broken.yaml").write_text(yaml.safe_dump(methods), encoding="utf-8")
    done = snakemake(touched, "-n", "--configfile", "broken.yaml", "--config", SCALE)
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in output
    assert re.search(r"^error: .*broken.py is not Python: .*line 1", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (["--config", SCALE, "--config", "name=mine"], f"--config {SCALE}"),
        (["--configfile", "a.yaml", "--configfile=b.yaml"], "--configfile a.yaml"),
    ],
)
def test_what_snakemake_would_ignore_is_refused(words, lost):
    with pytest.raises(UserError, match=f"'{lost}' would be ignored"):
        refuse_repeated(["snakemake", "-n", *words])
    refuse_repeated(["snakemake", "-n", "--configfile", "a.yaml", "b.yaml", "--config", SCALE])


def test_a_key_that_a_configuration_file_gives_twice_is_an_error(touched):
    (touched / "twice.yaml").write_text("scale: smoke\nscale: mini\n", encoding="utf-8")
    done = snakemake(touched, "-n", "--configfile", "twice.yaml")
    assert done.returncode != 0
    assert "twice.yaml: line 2: the key 'scale' is given twice; keep one" in done.stderr


def test_check_plans_nothing_else(touched):
    assert planned(touched, "check", "--config", SCALE) == {"check": 1}


@pytest.mark.parametrize(
    ("target", "studies"),
    [
        ("reproduce_table1", {"table1"}),
        ("all", {"table1", "ablation", "transfer"}),
        ("figures", {"table1", "ablation", "transfer"}),
    ],
)
def test_the_page_comes_after_the_studies_of_the_same_command(tmp_path, target, studies):
    words = (target, "report", "--config", SCALE, f"results={tmp_path}")
    done = snakemake(ROOT, "-n", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, reason = done.stdout.partition(f"Writing {tmp_path}/smoke/report.html\n")
    waits_for = reason.partition("\n")[0].partition("updated by another job: ")[2].split(", ")
    assert {f"{tmp_path}/smoke/{study}.md" for study in studies} <= set(waits_for)
    assert f"{tmp_path}/smoke/rehearsal.md" not in waits_for


def test_the_page_makes_no_study_also_where_one_would_be_made_anew(touched):
    found = planned(touched, "report", "--config", SCALE, "description=others")
    assert found == {"report": 1}


def test_the_default_is_table_1(touched):
    jobs = planned(touched, "--config", SCALE, "seeds=[0, 1, 2]")
    assert jobs["reproduce_table1"] == jobs["table1"] == 1 and "ablation" not in jobs


def test_it_runs_from_another_folder_with_a_space_in_its_name(tmp_path):
    elsewhere = tmp_path / "else where"
    done = snakemake(
        tmp_path, "-n", "-s", ROOT / "Snakefile", "-d", elsewhere, "all", "--config", SCALE
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "results/smoke/table1.md" in output and "total" in output


def test_it_is_a_module_of_another_workflow(tmp_path):
    (tmp_path / "Snakefile").write_text(
        "module distillation:\n"
        f"    snakefile: {str(ROOT / 'Snakefile')!r}\n"
        "    config: {'scale': 'smoke'}\n"
        "use rule * from distillation as distillation_*\n"
        "rule mine:\n"
        "    default_target: True\n"
        "    input: 'results/smoke/table1.csv'\n"
        "    output: 'mine.txt'\n"
        "    shell: 'cp {input} {output}'\n",
        encoding="utf-8",
    )
    jobs = planned(tmp_path)
    assert jobs["distillation_table1"] == jobs["mine"] == 1
    assert jobs["distillation_train_teacher"] == 1


OWN_STUDY = '''
from benchmarks.evidence.document import Document
from benchmarks.evidence.study import Study, StudySettings


class SpreadSettings(StudySettings):
    """How far apart seeds are."""

    epochs: int
    """The budget."""


class Spread(Study):
    name = "spread"
    title = "Spread"
    question = "How far apart are the seeds?"
    Settings = SpreadSettings

    def students(self):
        return {("deit-cait", "A", self.settings.epochs): ["soft_kd", "sp"]}

    def build(self):
        raise NotImplementedError
'''


def test_a_study_of_ones_own_is_planned_like_the_others(touched):
    (touched / "own.py").write_text(OWN_STUDY, encoding="utf-8")
    section = {"spread": {"study": "own:Spread", "epochs": 2}}
    (touched / "own.yaml").write_text(yaml.safe_dump(section), encoding="utf-8")
    words = ("--configfile", "own.yaml", "--config", SCALE)
    assert planned(touched, "all", *words) == {"spread": 1, "all": 1}
    assert planned(touched, "reproduce_spread", *words) == {"spread": 1, "reproduce_spread": 1}
    assert planned(touched, "figures", *words) == {"spread": 1, "figures": 1}
    misspelt = snakemake(touched, "-n", *words, "spread={epoch: 2}")
    assert "Did you mean 'epochs'?" in misspelt.stdout + misspelt.stderr
    gone = snakemake(touched, "-n", "--config", SCALE, "spread={study: 'own:Spred', epochs: 2}")
    assert "spread.study: there is no 'own:Spred'" in gone.stdout + gone.stderr


OWN_JOB = """
from benchmarks.evidence.study import Job

class Counted(Spread):
    name = "counted"

    def jobs(self):
        return [Job("count", run="own_job:count", message="", outputs=("counted/count.json",),
                    identity=lambda: 0)]

    def results(self):
        return [self.experiment.directory / "counted/count.json"]


def count(experiment):
    return 1
"""


def test_other_code_of_ones_own_job_plans_it_again(tmp_path, monkeypatch):
    code, section = tmp_path / "own_job.py", {"study": "own_job:Counted", "epochs": 2}
    code.write_text(OWN_STUDY + OWN_JOB, encoding="utf-8")
    words = {"scale": "smoke", "counted": section}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(words), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in COPIED:
        os.symlink(ROOT / name, tmp_path / name)
    experiment = resolve(words)
    study, (teacher,) = experiment.studies["counted"], experiment.pairs.keys() & {"deit-cait"}
    for path in [
        *(experiment.teacher_directory(teacher) / name for name in CELL_FILES),
        *(study.files() + study.cells() + study.results()),
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    tell_code(study.results(), job_hash("own_job"))  # as the job does
    asked = ("reproduce_counted", "--configfile", "own.yaml")
    assert snakemake(tmp_path, *asked, "--touch", "--forceall").returncode == 0
    assert not planned(tmp_path, *asked)
    code.write_text(code.read_text(encoding="utf-8") + "# a comment\n", encoding="utf-8")
    assert not planned(tmp_path, *asked)
    changed = code.read_text(encoding="utf-8").replace("return 1", "return 2")
    code.write_text(changed, encoding="utf-8")
    assert planned(tmp_path, *asked)["counted_count"] == 1


def test_a_study_in_ones_working_folder_is_found_by_the_plain_command(tmp_path):
    (tmp_path / "own.py").write_text(OWN_STUDY, encoding="utf-8")
    section = "spread={study: 'own:Spread', epochs: 2}"
    command = Path(sys.executable).with_name("snakemake")  # unlike `python -m`, adds no folder
    words = ("-n", "-s", ROOT / "Snakefile", "reproduce_spread", "--config", SCALE, section)
    done = subprocess.run(
        [command, *words], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0 and "reproduce_spread" in done.stdout + done.stderr


@pytest.mark.parametrize("scale", ["smoke", "mini", "imagenet"])
def test_the_dry_run_imports_nothing_heavy(touched, scale, tmp_path, cold_path):
    # What cannot be imported stands in front of the real ones.
    for name in ("torch", "matplotlib", "scipy", "timm", "mmdet"):
        (tmp_path / f"{name}.py").write_text(
            f"raise RuntimeError('{name} was imported')", encoding="utf-8"
        )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": cold_path}
    done = snakemake(touched, "-n", "all", "--config", f"scale={scale}", **environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_catalogues_requirements_are_met():
    """https://snakemake.github.io/snakemake-workflow-catalog: what a standardised workflow has."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))[
        "usage"
    ]
    assert usage["mandatory-flags"].keys() == {"desc", "flags"}
    assert set(usage["software-stack-deployment"]) == {"conda"} and usage["report"] is True
    assert (ROOT / "Snakefile").is_file() and (ROOT / "README.md").is_file()
    assert (ROOT / "LICENSE").is_file() and (ROOT / "config/README.md").is_file()
    assert list(Path(ROOT / "workflow/envs").glob("*.yaml"))
    assert list(Path(ROOT / "workflow/report").glob("*.rst"))
