"""What a study's jobs have made stays, or is made anew, by the code that made it."""

import json
import sys

import pytest

from benchmarks.evidence.kept import is_kept, keep
from benchmarks.evidence.study import Job, Study
from manifold.errors import UserError
from manifold.files import sha256
from manifold.settings import sources
from manifold.settings.sources import AND_SUITE, TRAINING, job_hash, source_hash
from manifold.settings.stale import code_file, code_of_job, is_job_made_anew, tell_code

FILES = ("weights.bin", "run.json")
JOB = "benchmarks.transfer.probes"
OLDER = "0" * 64  # a hash of other code


@pytest.fixture
def result(tmp_path):
    """A function that writes a job's result as code of some hash has made it."""

    def write(source_hash):
        (tmp_path / "weights.bin").write_text("weights", encoding="utf-8")
        files = {"weights.bin": sha256(tmp_path / "weights.bin")}
        record = {"fingerprint": "this", "source_hash": source_hash, "files": files}
        (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("made_by", "stale", "expected"),
    [
        ("now", "keep", True),
        ("now", "retrain", True),
        ("earlier", "keep", True),
        ("earlier", "retrain", False),
    ],
)
def test_a_result_stays_unless_its_code_is_followed(
    made_by, stale, expected, experiment, result, capsys
):
    folder = result(job_hash(JOB) if made_by == "now" else made_by)
    assert is_kept(experiment(stale=stale), JOB, folder, FILES, "this") is expected
    said = capsys.readouterr().err
    is_told = "was made by other code than now stands" in said
    assert is_told == ((made_by, stale) == ("earlier", "keep"))


def test_a_result_of_a_users_own_job_is_always_followed(experiment, result, tmp_path, monkeypatch):
    (tmp_path / "job_of_a_user.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for made_by, expected in ((job_hash("job_of_a_user"), True), ("earlier", False)):
        assert is_kept(experiment(), "job_of_a_user", result(made_by), FILES, "this") is expected


def test_what_the_suite_adds_to_a_users_job_is_followed_where_that_is_asked(
    experiment, result, tmp_path, monkeypatch
):
    """An update of the suite trains no method of the user's alone again."""
    (tmp_path / "job_with_a_study.py").write_text("import manifold.losses", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    own, suite = job_hash("job_with_a_study").split(AND_SUITE)
    asked = ("job_with_a_study", result(f"{own}{AND_SUITE}{OLDER}"), FILES, "this")
    assert is_kept(experiment(), *asked) and not is_kept(experiment(stale="retrain"), *asked)
    asked = ("job_with_a_study", result(f"{OLDER}{AND_SUITE}{suite}"), FILES, "this")
    assert not is_kept(experiment(), *asked)


@pytest.mark.parametrize(
    "text",
    [
        *('{"mean": 1}', '{"source_hash": "v1"}', '{"source_hash": 5}', "[]", '"a word"', "{"),
        *('{"data_digest": {"train": 5}}', '{"data_digest": 5}', "[" * 100_000),
    ],
)
def test_an_output_of_a_records_name_that_is_none_is_told_of_as_any_other(
    text, experiment, tmp_path, monkeypatch
):
    """Planned for ever, if it were taken for one of other code."""
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "job_of_a_user.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for module in (JOB, "job_of_a_user"):
        tell_code([path], job_hash(module))
        for stale in ("keep", "retrain"):
            assert not is_job_made_anew(experiment(stale=stale), module, None, [path], "files:x")
        tell_code([path], OLDER)
        is_users = module != JOB
        assert is_job_made_anew(experiment(), module, None, [path], None) is is_users
        assert is_job_made_anew(experiment(stale="retrain"), module, None, [path], None)


WORK = """
def run(experiment):
    (experiment.directory / "run.json").write_text('{text}', encoding="utf-8")
"""


@pytest.mark.parametrize(
    ("is_record", "is_users"), [(True, True), (False, True), (True, False), (False, False)]
)
def test_a_job_tells_which_code_made_what_holds_no_record_of_it(
    is_record, is_users, experiment, tmp_path, monkeypatch
):
    """A user's may hold a record of what it was made from: which code made it is told always."""
    text = json.dumps({"source_hash": OLDER} if is_record else {})
    (tmp_path / "job_that_tells.py").write_text(WORK.format(text=text), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    if not is_users:
        monkeypatch.setattr(sources, "PROJECT", (*sources.PROJECT, "job_that_tells"))
        monkeypatch.setattr(sources, "ROOT", tmp_path)
    run = "job_that_tells:run"
    job = Job("work", run=run, message="", outputs=("run.json",), identity=lambda: 0)
    made = experiment()
    made.directory.mkdir(parents=True)
    monkeypatch.setattr(Study, "jobs", lambda self: [job])
    Study(made, None).do("work", [])
    monkeypatch.setattr(Study, "name", "mine", raising=False)
    for words in (["force"], ["seed=x"]):
        with pytest.raises(UserError, match=f"takes nothing, got {words[0]}"):
            Study(made, None).do("work", words)
    told = code_file(made.directory / "run.json")
    assert told.is_file() is (is_users or not is_record)
    if told.is_file():
        assert told.read_text(encoding="utf-8") == job_hash("job_that_tells")
        asked = "job_that_tells", None, [made.directory / "run.json"], None
        assert not is_job_made_anew(made, *asked)
    sys.modules.pop("job_that_tells")
    job_hash.cache_clear()
    sources._shared_modules.cache_clear()


def test_what_was_made_before_its_code_was_told_is_old_where_that_is_asked(experiment, tmp_path):
    path = tmp_path / "data.json"
    for is_there in (False, True):
        for stale in ("keep", "retrain"):
            asked = experiment(stale=stale), JOB, None, [path], None
            assert is_job_made_anew(*asked) == (is_there and stale == "retrain")
        path.write_text("{}", encoding="utf-8")


def test_what_says_which_code_it_was_and_is_no_text_says_nothing(experiment, tmp_path):
    path = tmp_path / "data.json"
    path.write_text("{}", encoding="utf-8")
    code_file(path).write_bytes(b"\xff")
    for stale in ("keep", "retrain"):
        asked = experiment(stale=stale), JOB, None, [path], None
        assert is_job_made_anew(*asked) == (stale == "retrain")


def test_a_job_that_trains_is_held_to_its_own_code_too(experiment, tmp_path):
    """Of transfer's fine-tuning: to that of training, and to the module that sets it up."""
    (job,) = (job for job in experiment().studies["transfer"].jobs() if job.method is not None)
    module = job.run.partition(":")[0]
    distiller = experiment().method_definitions[job.method].distiller
    path = tmp_path / "run.json"
    for made_by, is_old in (
        (source_hash(distiller, module), False),
        (source_hash(distiller), True),
    ):
        path.write_text(json.dumps({"source_hash": made_by}), encoding="utf-8")
        for stale in ("keep", "retrain"):
            asked = experiment(stale=stale), module, job.method, [path], None
            assert is_job_made_anew(*asked) == (is_old and stale == "retrain")
    assert {module, *TRAINING} < sources.covered_by_job(module).keys()


def test_a_users_job_that_makes_cells_is_held_to_their_methods_code(
    experiment, tmp_path, monkeypatch
):
    for name in ("job_that_trains", "method_of_a_user"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    mine = experiment().method_definitions["sp"].replaced(distiller="method_of_a_user:Mine")
    module, path = "job_that_trains", tmp_path / "run.json"
    path.write_text("{}", encoding="utf-8")
    for definition in (experiment().method_definitions["sp"], mine):
        methods = experiment().method_definitions | {"sp": definition}
        for stale, expected in (("keep", definition is mine), ("retrain", True)):
            made = experiment(stale=stale).replaced(method_definitions=methods)
            asked = made, module, "sp", [path], None
            tell_code([path], code_of_job(made, module, "sp"))
            assert not is_job_made_anew(*asked)
            tell_code([path], job_hash(module))  # as if the method's file had been another
            assert is_job_made_anew(*asked) is expected


def test_a_result_that_is_damaged_or_of_another_configuration_does_not_stay(experiment, result):
    folder = result(job_hash(JOB))
    assert not is_kept(experiment(), JOB, folder, FILES, "other")
    (folder / "weights.bin").write_text("others", encoding="utf-8")
    assert not is_kept(experiment(), JOB, folder, FILES, "this")


def test_what_stays_is_dated_anew(result, capsys):
    folder = result("now")
    old = folder / "old"
    old.write_text("", encoding="utf-8")
    keep(folder, FILES)
    assert all((folder / name).stat().st_mtime >= old.stat().st_mtime for name in FILES)
    assert capsys.readouterr().err == f"{folder} is complete\n"


# ---- what a job's hash covers ----------------------------------------------------------------

DECLARATION = """
from benchmarks.evidence.study import Study

class Mine(Study):
    def build(self):
        from mine.table import build
        return build(self)
"""
PACKAGE = {
    "__init__.py": DECLARATION,
    "table.py": "WIDTH = 1\n",
    "work.py": "from mine import Mine\nfrom mine.steps import STEPS\n",
    "steps.py": "STEPS = 1\n",
}


@pytest.fixture
def hashes(tmp_path, monkeypatch):
    """A function that gives the hashes of a study's job and table, with some files changed."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()

    def compute(**changes):
        for name, text in (PACKAGE | {f"{key}.py": text for key, text in changes.items()}).items():
            (tmp_path / "mine" / name).write_text(text, encoding="utf-8")
        sources._shared_modules.cache_clear()
        job_hash.cache_clear()
        return job_hash("mine.work"), job_hash("mine")

    yield compute
    sources._shared_modules.cache_clear()
    job_hash.cache_clear()


def test_a_table_is_not_of_the_job_and_what_the_job_imports_is(hashes):
    job, table = hashes()
    assert hashes(table="WIDTH = 2\n") == (job, hashes(table="WIDTH = 2\n")[1])
    assert hashes(table="WIDTH = 2\n")[1] != table
    assert hashes(steps="STEPS = 2\n")[0] != job
    assert hashes(__init__=f"{DECLARATION}\nSEEDS = 3\n")[0] == job
    assert hashes() == (job, table)


@pytest.mark.parametrize(
    "statement",
    [
        *("from mine import SEEDS, Mine", "from . import SEEDS", "from mine import *"),
        *("import mine", "def work():\n    from mine import SEEDS", "from mine import Counts"),
    ],
)
def test_a_declaration_from_which_a_users_job_takes_more_than_a_study_is_followed(
    statement, hashes
):
    declaration = (
        f"from mine.steps import STEPS\n{DECLARATION}\nclass Counts(dict):\n    SEEDS = 3\n"
    )
    used = {"work": f"{statement}\n", "__init__": declaration}
    job, _ = hashes(**used)
    assert hashes(**used | {"__init__": declaration.replace("3", "4")})[0] != job
    assert hashes(**used, steps="STEPS = 2\n")[0] != job
    assert hashes(**used)[0] == job


@pytest.mark.parametrize(
    ("statement", "is_followed"),
    [
        ("from mine import study", True),
        ("from . import study", True),
        ("import mine.study", True),
        ("from mine.study import measured", True),
        ("from mine.study import Mine", False),
        ("from mine.study import Mine, Settings", False),
    ],
)
def test_a_declaration_in_a_file_of_its_own_is_followed_alike(statement, is_followed, hashes):
    text = "from benchmarks.evidence.study import Study, StudySettings\n\nSEEDS = 3\n"
    text += "class Settings(StudySettings):\n    pass\n"
    text += "class Base(Study):\n    pass\nclass Mine(Base):\n    pass\n"
    text += "def measured(seed):\n    return seed\n"
    used = {"work": f"{statement}\n", "__init__": "", "study": text}
    job, _ = hashes(**used)
    assert (hashes(**used | {"study": text.replace("3", "4")})[0] != job) is is_followed
