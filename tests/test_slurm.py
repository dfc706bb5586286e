"""The Slurm profile: what its plugin plans, and the sbatch call that it would make.

There is no cluster: ``sbatch`` and ``sacctmgr`` are scripts that write their arguments down.
"""

import os
import subprocess
import sys

import pytest

from manifold import config

PROFILE = "profiles/slurm"
TWO_NODES = "machine={nodes: 2, processes: 4, device: cuda, threads: 1, workers: 5}"
ONE_GPU = "machine={nodes: 1, processes: 1, device: cuda, threads: 1, workers: 5}"


def snakemake(*arguments, path=""):
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", PROFILE, "--nolock", *arguments],
        cwd=config.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A folder with the two commands, and a preflight that has been made already."""
    folder = tmp_path_factory.mktemp("slurm")
    scripts = {
        "sbatch": f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/submitted.txt\nexit 1\n',
        "sacctmgr": "#!/bin/sh\necho default\n",
    }
    for name, script in scripts.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def submitted(cluster):
    """Return the arguments of sbatch for a smoke teacher's training on a machine."""

    def submit(machine):
        results = cluster / "results"
        done = snakemake(
            *(f"{results}/smoke/teachers/deit-cait/student.safetensors", "--retries", "0"),
            *("--slurm-init-seconds-before-status-checks", "1"),
            *("--config", "scale=smoke", f"results={results}", machine),
            path=str(cluster),
        )
        assert "SLURM sbatch failed" in done.stdout + done.stderr  # the script ends with 1
        return (cluster / "submitted.txt").read_text().splitlines()

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
    for wanted in ("--nodes=2", "--ntasks=2", "--gpus=8", "--cpus-per-gpu=5", "--requeue"):
        assert wanted in arguments
    assert not [a for a in arguments if a.startswith(("--ntasks-per-gpu", "--ntasks-per-node"))]
    assert arguments[arguments.index("-A") + 1] == "default"
    assert arguments[arguments.index("-p") + 1] == "gpu"


def test_a_training_on_one_gpu_is_submitted_with_one(submitted):
    arguments = submitted(ONE_GPU)
    assert "--gpus=1" in arguments and "--cpus-per-gpu=5" in arguments
    assert not [a for a in arguments if a.startswith("--nodes")]
