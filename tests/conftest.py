"""What the tests share: one thread, a small cohort's configuration, a python that is warm."""

import gc
import os
import re
import subprocess
from functools import cache

import made_cells
import pytest
import warm_python as warm

from manifold import settings

# Also of every process that a test starts: threads of two tests on the same cores wait for each
# other, and spend several times the work on that.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A worker takes a file at a time: the longest first, so that none is alone with one at the end.
LONGEST = ("test_workflow.py", "test_paper_scale.py", "test_distributed.py", "test_resume.py")


# What a file begins with whose tests are all slow.
ALL_SLOW = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """Leave files unread whose tests are all left out: what they import takes seconds."""
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        return bool(ALL_SLOW.search(collection_path.read_text(encoding="utf-8"))) or None
    return None


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_configure():
    gc.disable()  # while all is imported, which stays to the end


def pytest_collection_finish():
    gc.freeze()  # the collector need not walk it again and again
    gc.set_threshold(20_000)  # nor what tests make as often as it would
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch  # here, so that the process that starts the workers does not wait for it
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder on a disk of 64 KiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture(scope="session")
def cold_path():
    """PATH with the interpreter of every day."""
    return os.environ["PATH"]


@pytest.fixture(scope="session")
def warm_python(cold_path):
    """PATH whose ``python`` has imported everything."""
    return os.pathsep.join([str(warm.started()), cold_path])


@pytest.fixture(scope="module")
def on_path(warm_python):
    """Let what the tests of a module start by the name ``python`` be warm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", warm_python)
        yield


@pytest.fixture(autouse=True, scope="session")
def _this_tree():
    """What a test starts from another folder runs the sources that stand beside the tests."""
    paths = [str(settings.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


@pytest.fixture
def looks_each_time(monkeypatch):
    """Let each look at a folder of data stand for that of another process."""
    from manifold.settings import data_files

    monkeypatch.setattr(data_files, "digest_of_folders", data_files.digest_of_folders.__wrapped__)


@pytest.fixture
def experiment(tmp_path):
    """Resolve the smoke scale with its results in a temporary folder, and what else is given."""

    def make(**overrides):
        if overrides:
            return settings.resolve({"scale": "smoke", "results": str(tmp_path), **overrides})
        return smoke().replaced(results=str(tmp_path))

    return make


@pytest.fixture
def make(tmp_path):
    """Resolve Table 1 of the smoke scale with a folder of results of its own, for made cells."""
    teacher = tmp_path / "teacher" / "student.safetensors"
    teacher.parent.mkdir()
    teacher.write_bytes(b"weights")

    def resolved(folder, **overrides):
        return settings.resolve(
            {
                "scale": "smoke",
                "results": str(tmp_path / folder),
                "name": "study",
                "seeds": made_cells.SEEDS,
                "methods": made_cells.METHODS,
                "pairs": {"deit-cait": {"teacher": {"weights": str(teacher)}}},
                **dict.fromkeys(("recipe_study", "budgets", "ablation", "transfer", "bench")),
                **dict.fromkeys(("curves", "maps")),
                **dict.fromkeys(("detection", "detection_rehearsal", "segmentation", "cost")),
                **overrides,
            }
        )

    return resolved


@cache
def smoke():
    """The smoke scale as it stands, which is frozen."""
    return settings.resolve({"scale": "smoke"})
