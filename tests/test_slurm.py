"""The profiles: what Slurm's plans, the sbatch call that it would make, and what default keeps.

There is no cluster: Slurm's commands are scripts, of which ``sbatch`` writes its arguments down.
"""

import functools
import os
import re
import shutil
import subprocess

import pytest
import running

from manifold.settings import ROOT

pytestmark = pytest.mark.slow

PROFILES = ROOT / "profiles"
PROFILE = PROFILES / "slurm"
TWO_NODES = "machine={nodes: 2, processes: 4, device: cuda, threads: 1, workers: 5}"
ONE_GPU = "machine={nodes: 1, processes: 1, device: cuda, threads: 1, workers: 5}"
BY_GRES = "machine={nodes: 1, processes: 4, device: cuda, workers: 5, gres: 'gpu:a100'}"
TEACHER, MEASURED = "student.safetensors", "evaluation.json"


@pytest.fixture(scope="module", autouse=True)
def _warm(on_path):
    """Let every Snakemake start at once."""


def snakemake(*arguments, path="", profile=PROFILE):
    path = f"{path}:{os.environ['PATH']}"
    words = ("--profile", profile, "--nolock", *arguments)
    return running.snakemake(ROOT, *words, timeout=300, PATH=path)


# The user has an account, and the plugin cannot guess it.
COMMANDS = {
    "sacctmgr": "echo mine",
    "sacct": "echo 'sacct: accounting storage is disabled' >&2; exit 1",
    "sinfo": "printf 'PARTITION\\nshort\\nlong*\\n'",
    "scontrol": "exit 0",
}


def write_commands(folder, commands):
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A folder with Slurm's commands."""
    folder = tmp_path_factory.mktemp("slurm")
    submit = f'printf "%s\\n" "$@" > {folder}/submitted.txt; exit 1'
    write_commands(folder, {**COMMANDS, "sbatch": submit})
    return folder


@pytest.fixture(scope="module")
def submitted(cluster):
    """Return the arguments of sbatch for a job of smoke's teacher, after the local rules."""

    @functools.cache
    def submit(machine, *options, file=TEACHER, profile=PROFILE):
        results = cluster / "results"
        teacher = "untrained" if file == MEASURED else "train"
        done = snakemake(
            *(f"{results}/smoke/teachers/deit-cait/{file}", "--retries", "0"),
            *("--rerun-triggers", "mtime"),  # one preflight for all
            *("--slurm-init-seconds-before-status-checks", "1", *options),
            *("--config", "scale=smoke", f"results={results}", "name=smoke", machine),
            f"pairs={{deit-cait: {{teacher: {{weights: {teacher}}}}}}}",
            "recipes={A: {shards: 8}}",  # one for each of the most processes
            path=str(cluster),
            profile=profile,
        )
        assert "SLURM sbatch failed" in done.stdout + done.stderr  # the script ends with 1
        return (
            (cluster / "submitted.txt")
            .read_text(encoding="utf-8")
            .partition("--wrap")[0]
            .splitlines()
        )

    return submit


def test_the_profile_plans_the_papers_table():
    done = snakemake("-n", "--config", "scale=imagenet")
    assert done.returncode == 0, done.stderr
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert counts["fetch_teacher"] == "5"
    assert (
        counts["train_swin_tiny_swin_small_A_300_0"]
        == counts["train_deit_tiny_cait_s24_A_300_0"]
        == "3"
    )
    assert "{params.launch}" not in done.stdout


def test_a_training_on_two_nodes_is_submitted_with_all_its_gpus(submitted):
    arguments = submitted(TWO_NODES)
    for wanted in ("--nodes=2", "--ntasks=2", "--gres=gpu:4", "--cpus-per-task=20", "--requeue"):
        assert wanted in arguments
    assert not [a for a in arguments if a.startswith(("--ntasks-per-gpu", "--ntasks-per-node"))]
    assert not [a for a in arguments if a.startswith(("--gpus", "--cpus-per-gpu"))]


def test_a_training_on_one_gpu_is_submitted_with_one(submitted):
    arguments = submitted(ONE_GPU)
    assert {"--gpus=1", "--cpus-per-gpu=5", "--nodes=1", "--requeue"} <= set(arguments)
    assert not [a for a in arguments if a.startswith("--gres")]


def test_a_training_without_an_account_is_submitted_to_the_clusters_defaults(submitted):
    arguments = submitted(ONE_GPU)
    assert "-A" not in arguments and not [a for a in arguments if a.startswith("--account")]
    assert arguments[arguments.index("-p") + 1] == "long"  # the one that sinfo stars


def test_the_account_and_the_partition_are_two_lines_of_the_profile(submitted, tmp_path):
    lines = (PROFILE / "config.yaml").read_text(encoding="utf-8")
    lines, count = re.subn(r"# (slurm_(?:account|partition): )(ACCOUNT|PARTITION)", r"\1\2", lines)
    assert count == 2
    lines = lines.replace("ACCOUNT", "mine").replace("PARTITION", "short")
    (tmp_path / "config.yaml").write_text(lines, encoding="utf-8")
    arguments = submitted(ONE_GPU, profile=tmp_path)
    assert arguments[arguments.index("-A") + 1] == "mine"
    assert arguments[arguments.index("-p") + 1] == "short"
    assert arguments[arguments.index("-t") + 1] == "1440"


def test_a_cluster_that_knows_gres_alone_is_asked_for_gres_alone(submitted):
    arguments = submitted(BY_GRES)
    assert {"--gres=gpu:a100:4", "--nodes=1", "--cpus-per-task=20"} <= set(arguments)
    assert not [a for a in arguments if re.match("--.*gpu", a) and not a.startswith("--gres")]


@pytest.mark.parametrize(
    ("machine", "file", "options", "minutes", "megabytes"),
    [
        (ONE_GPU, TEACHER, (), "1440", "20000"),
        (TWO_NODES, TEACHER, (), "1440", "80000"),  # of a node: 20 threads
        (TWO_NODES, MEASURED, (), "240", "20000"),  # one process
        (ONE_GPU, TEACHER, ("--default-resources", "runtime=60", "mem_mb=512000"), "60", "512000"),
        (ONE_GPU, TEACHER, ("--set-resources", "train_teacher:mem_mb=7000"), "1440", "7000"),
    ],
)
def test_time_and_memory_are_the_profiles_unless_said_otherwise(
    machine, file, options, minutes, megabytes, submitted
):
    arguments = submitted(machine, *options, file=file)
    assert arguments[arguments.index("-t") + 1] == minutes
    assert arguments[arguments.index("--mem") + 1] == megabytes


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--profile", PROFILES / "gpu"],
        ["--profile", PROFILE, "--slurm-init-seconds-before-status-checks", "1"],
    ],
    ids=["default", "gpu", "slurm"],
)
def test_a_job_that_fails_keeps_the_files_that_it_has_finished(options, tmp_path):
    """Wherever Snakemake is started, and whatever profile is named."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    finished = tmp_path / f"results/smoke/teachers/deit-cait/{TEACHER}"
    fail = f"mkdir -p {finished.parent}; touch {finished}; exit 1"
    preflight = "touch results/smoke/preflight.json"
    write_commands(
        tmp_path,
        {
            **COMMANDS,
            "sbatch": fail,
            "python": f'case "$*" in *preflight*) {preflight};; *) {fail};; esac',
        },
    )
    done = subprocess.run(
        [
            *(shutil.which("python"), "-m", "snakemake"),  # the warm one
            *("-s", ROOT / "Snakefile", "-d", tmp_path),
            *("--jobs", "1", "--retries", "0", *options),
            *(f"results/smoke/teachers/deit-cait/{TEACHER}", "--config", "scale=smoke"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        encoding="utf-8",
    )
    assert done.returncode == 1 and "Error in rule train_teacher" in done.stdout + done.stderr
    assert finished.exists(), done.stderr
