"""The hash of the sources that shape a cell: what changes it, and what does not."""

import ast
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from manifold.errors import UserError
from manifold.settings import ROOT, read_yaml, sources
from manifold.settings.sources import closure, is_own, source_hash, tree_hash
from manifold.settings.syntax import statements

pytestmark = pytest.mark.slow

METHODS = {
    "dkd": "baselines.dkd:DKD",
    "nkd": "baselines.nkd:NKD",
    "sp": "baselines.sp:SimilarityPreserving",
    "manifold": "manifold.methods:Manifold",
}
NOT_IMPORTED = ("torch", "numpy", "pandas", "timm", "sklearn", "matplotlib")


def hashes_in(folder, methods=METHODS, working=None, path=None, seed="0"):
    """The hashes that the sources in ``folder`` have, from a new process."""
    code = (
        "import json, sys; from manifold.settings.sources import source_hash;"
        "print(json.dumps({name: source_hash(kind) for name, kind in json.loads(sys.argv[1])}));"
        f"sys.exit(any(name in sys.modules for name in {NOT_IMPORTED}))"
    )
    paths = [str(folder), *([str(path)] if path else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", code, json.dumps(list(methods.items()))]
    done = subprocess.run(
        command,
        cwd=working or folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def copy_to(folder):
    for package in ("manifold", "baselines", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    return folder


@pytest.fixture
def copy(tmp_path):
    """A copy of the sources, to be edited."""
    return copy_to(tmp_path / "copy")


@pytest.fixture(scope="module")
def kept_copy(tmp_path_factory):
    """A copy of the sources, whose edits are taken back."""
    return copy_to(tmp_path_factory.mktemp("sources") / "copy")


@pytest.fixture(scope="module")
def hashes_here():
    """``hashes_in``, taken in this process, which parses and digests each text once."""
    parse, digest, trees, digests = sources.parse, sources.digest, {}, {}

    def parse_once(path):
        text = path.read_bytes()
        if text not in trees:
            trees[text] = parse(path)
        return trees[text]

    def digest_once(tree):
        if tree not in digests:
            digests[tree] = digest(tree)
        return digests[tree]

    def forget():
        sources._shared_modules.cache_clear()
        source_hash.cache_clear()

    def hashes(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "ROOT", folder)
            patch.setattr(sources, "parse", parse_once)
            patch.setattr(sources, "digest", digest_once)
            forget()
            found = {name: source_hash(distiller) for name, distiller in METHODS.items()}
        forget()
        return found

    return hashes


@pytest.fixture(scope="module")
def unedited():
    return hashes_in(ROOT)


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


# ---- one file --------------------------------------------------------------------------------

SOURCE = '''"""A module."""

import math
from os import path


@staticmethod
def area(radius: float, *, scale=1.5) -> float:
    """The area of a disc."""
    if radius < 0:
        raise ValueError(f"radius {radius!r:>{8}} is negative")
    return scale * math.pi * radius**2  # in square metres


class Disc:
    """A disc."""
'''
# Of SOURCE, under every version of Python.
SOURCE_HASH = "451756d590de30ee6850091544226c07b187badd8256463947e41dc7f2f7f520"


def hash_of(text, folder):
    file = folder / "module.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tree_hash(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# in square metres", "# in acres"),
        ("  # in square metres", ""),
        ("import math\n", "# -*- coding: utf-8 -*-\nimport math\n\n\n\n"),
        ('"""A module."""', '"""Another\n\nmodule."""'),
        ('"""A module."""\n', ""),
        ('    """The area of a disc."""\n', ""),
        ('"""The area of a disc."""', "'Of a disc, the area.'"),
        ('class Disc:\n    """A disc."""\n', "class Disc: pass\n"),
        ("(radius: float, *, scale=1.5)", "(\n    radius: float,\n    *,\n    scale=1.5,\n)"),
        ("scale * math.pi * radius**2", "((scale * math.pi) * (radius ** 2))"),
        (
            'f"radius {radius!r:>{8}} is negative"',
            "f'radius ' f'{radius!r:>{8}}' ' is ' 'negative'",
        ),
        ("1.5", "1.50"),
        ("\n", "\r\n"),
    ],
)
def test_what_changes_no_code_keeps_the_hash(old, new, tmp_path):
    edited = SOURCE.replace(old, new)
    assert edited != SOURCE
    assert hash_of(edited, tmp_path) == hash_of(SOURCE, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.5", "1.25"),
        ("1.5", "True"),
        ("1.5", "'1.5'"),
        ("1.5", "None"),
        ("**2", "**2.0"),
        ("radius < 0", "radius <= 0"),
        ("scale * math", "scale + math"),
        ("scale * math.pi * radius**2", "scale * (math.pi * radius**2)"),
        ("radius: float, *,", "width: float, *,"),
        ("radius: float, *,", "radius: float,"),
        (" -> float", ""),
        ("@staticmethod\n", ""),
        ("negative", "Negative"),
        ("!r:>", "!s:>"),
        ("{8}", "{9}"),
        ("from os import path", "from .os import path"),
        ("import math", "import cmath as math"),
        ("import math", "math = None\nimport math"),
        ("    return scale", "    pass\n    return scale"),
        ("    return scale", '    "not a docstring"\n    return scale'),
        ("class Disc:", "class Disc(object):"),
        ("def area", "async def area"),
    ],
)
def test_every_other_edit_changes_the_hash(old, new, tmp_path):
    edited = SOURCE.replace(old, new)
    assert edited != SOURCE
    assert hash_of(edited, tmp_path) != hash_of(SOURCE, tmp_path)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("{**a}", "{}"),
        ("f(None)", "f()"),
        ("x = [a, b]", "x = [[a], b]"),
        ("def f(*, a, b=1): 0", "def f(*, a=1, b): 0"),
        ("def f(a, /): 0", "def f(a): 0"),
        ("return_ = 'a', 'b'", "return_ = 'a' 'b'"),
        ("a.b", "a['b']"),
        ("f'{x:}'", "f'{x: }'"),
        ("f'{x}{y}'", "f'{x}' + f'{y}'"),
        ("try: a\nexcept b: c\nelse: d", "try: a\nexcept b: c\nfinally: d"),
        ("x = 'a'", "x = b'a'"),
        ("match x:\n case None: 0", "match x:\n case False: 0"),
    ],
)
def test_what_an_empty_field_says_is_not_lost(text, other, tmp_path):
    assert hash_of(text, tmp_path) != hash_of(other, tmp_path)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_version_of_python_finds_the_same_hash(version, tmp_path):
    assert hash_of(SOURCE, tmp_path) == SOURCE_HASH
    python = shutil.which(f"python{version}")
    code = "import sys; print(sys.version_info[:2])"
    run = {"capture_output": True, "text": True, "cwd": ROOT}
    if python is None or subprocess.run([python, "-c", code], **run).returncode:
        pytest.skip(f"there is no Python {version} here")
    files = [tmp_path / "module.py", *sorted((ROOT / "manifold").rglob("*.py"))]
    code = (
        "import pathlib, sys; from manifold.settings.sources import tree_hash;"
        "print(*(tree_hash(pathlib.Path(name)) for name in sys.argv[1:]))"
    )
    done = subprocess.run([python, "-c", code, *map(str, files)], check=True, **run)
    assert done.stdout.split() == [tree_hash(file) for file in files]


@pytest.mark.parametrize("text", ["def f(:\n", "x = 1\n  y = 2\n", "\0", b"\xff = 1"])
def test_a_file_that_is_not_python_is_named(text, tmp_path):
    with pytest.raises(UserError, match=r"module\.py is not Python: .*; correct it"):
        hash_of(text, tmp_path)


# ---- what is imported ------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules into a folder of PYTHONPATH."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def make(files):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("import helper", {"helper"}),
        ("import helper as h, json", {"helper"}),
        ("from helper import anything", {"helper"}),
        ("def f():\n    import helper", {"helper"}),
        ("try:\n    pass\nexcept A:\n    import helper", {"helper"}),
        ("while a:\n    pass\nelse:\n    import helper", {"helper"}),
        ("match a:\n    case 1:\n        import helper", {"helper"}),
        ("class A:\n    def f(self):\n        with a:\n            import helper", {"helper"}),
        ("import package", {"package"}),
        ("import package.inner", {"package", "package.inner"}),
        ("from package import inner", {"package", "package.inner"}),
        ("from package import attribute", {"package"}),
        ("from package import *", {"package"}),
        ("from package.inner import attribute", {"package", "package.inner"}),
        ("from package import near", {"package", "package.near", "package.inner"}),
        ("import package.deeper.up", {"package", "package.deeper.up", "package.inner"}),
        ("from folder import inside", {"folder.inside"}),
        ("import folder", set()),
        ("import cycle", {"cycle"}),
        ("import nowhere, package.nowhere", {"package"}),
        ("import torch, json, os.path, sys\nfrom numpy import linalg", set()),
        ("from . import helper", set()),  # a module that is in no package: Python refuses it
        ("text = 'import helper'", set()),
    ],
)
def test_imports_are_read_from_the_statements(statement, found, write):
    write(
        {
            "helper.py": "",
            "package/__init__.py": "",
            "package/inner.py": "",
            "package/near.py": "from . import inner",
            "package/deeper/up.py": "from .. import inner\nfrom ... import helper",
            "folder/inside.py": "",
            "cycle.py": "import main",
            "main.py": statement,
        }
    )
    assert set(closure(["main"])) == {"main"} | found


def test_nothing_is_run_to_find_it(write):
    folder = write({"main.py": "import helper\nraise SystemExit", "helper.py": "raise SystemExit"})
    assert closure(["main"]) == {"helper": folder / "helper.py", "main": folder / "main.py"}


def test_a_module_that_was_asked_for_must_be_there(write):
    write({"main.py": ""})
    with pytest.raises(UserError, match=r"'mine:Mine' asks for the module 'main\.mine'"):
        closure(["main.mine"], importer="'mine:Mine'")
    with pytest.raises(UserError, match="distiller 'mane:Mine' asks for the module 'mane'"):
        source_hash("mane:Mine")
    with pytest.raises(UserError, match="distiller ':Mine' asks for the module ''"):
        is_own(":Mine")


def test_a_broken_module_that_is_imported_is_named(write):
    write({"main.py": "import helper", "helper.py": "def f(:\n"})
    with pytest.raises(UserError, match=r"helper\.py is not Python"):
        closure(["main"])


def test_a_method_is_followed_into_this_projects_packages_alone():
    found = closure(["baselines.dkd"])
    packages = {"baselines", "baselines.dkd", "baselines.logits", "manifold", "manifold.losses"}
    assert packages <= set(found)
    assert all(name.partition(".")[0] in ("manifold", "baselines") for name in found)
    for name, path in found.items():
        parts = Path(*name.split("."))
        assert path in (ROOT / parts.with_suffix(".py"), ROOT / parts / "__init__.py")


@pytest.mark.parametrize(
    ("distiller", "expected"),
    [
        ("baselines.sp:SimilarityPreserving", True),
        ("manifold.methods:Manifold", True),
        ("main:Mine", True),
        ("folder.inside:Mine", True),
        ("timm.task:TrainingTask", False),
        ("json:JSONDecoder", False),
    ],
)
def test_a_method_is_own_unless_it_is_installed(distiller, expected, write):
    sources._shared_modules.cache_clear()
    write({"main.py": "", "folder/inside.py": ""})
    assert is_own(distiller) is expected
    parts = source_hash(distiller).split(sources.AND_SUITE)  # a user's, and what trains it
    assert [len(part) for part in parts] == [64] * (1 if sources.is_projects(distiller) else 2)


# ---- what a method's hash covers -------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("baselines/dkd.py", {"dkd"}),
        ("baselines/logits.py", {"dkd", "nkd"}),
        ("baselines/sp.py", {"sp"}),
        ("baselines/vkd.py", set()),
        ("manifold/methods.py", {"manifold"}),
        *(
            (f"manifold/{name}.py", set(METHODS))
            for name in (
                *(
                    "losses",
                    "relations",
                    "distiller",
                    "tokens",
                    "attention",
                    "models",
                    "ranks",
                    "seeds",
                ),
                *("training/train", "training/runs", "training/cohort", "training/data/batches"),
                "training/evaluation",
            )
        ),
        *(
            (f"manifold/{name}.py", set())
            for name in (
                *("__init__", "__main__", "errors", "files", "settings/recipe", "settings/sources"),
                *("training/records", "training/command", "training/launch", "training/fetch"),
                *("training/progress", "training/kept", "training/description"),
            )
        ),
        ("benchmarks/evidence/preflight.py", set()),
        ("benchmarks/table1/measure.py", set()),
    ],
)
def test_an_edit_changes_the_hash_of_the_methods_that_it_may_change(
    file, expected, unedited, kept_copy, hashes_here
):
    before = (kept_copy / file).read_text(encoding="utf-8")
    append(kept_copy / file, "\nEDITED = True\n")
    found = hashes_here(kept_copy)
    (kept_copy / file).write_text(before, encoding="utf-8")
    assert changed(unedited, found) == expected


def test_comments_change_the_hash_of_no_method(unedited, copy):
    for path in copy.rglob("*.py"):
        append(path, "\n# a comment\n")
    assert hashes_in(copy) == unedited


@pytest.mark.parametrize(
    "statement",
    [
        "import baselines.helper",
        "from baselines import helper",
        "from . import helper",
        "from .helper import ONE",
        "def late():\n    from baselines.helper import ONE",
    ],
)
def test_a_new_import_joins_the_hash_of_its_method(statement, unedited, copy):
    append(copy / "baselines/sp.py", f"\n{statement}\n")
    (copy / "baselines/helper.py").write_text("ONE = 1\n", encoding="utf-8")
    before = hashes_in(copy)
    assert changed(unedited, before) == {"sp"}
    (copy / "baselines/helper.py").write_text("ONE = 2\n", encoding="utf-8")
    assert changed(before, hashes_in(copy)) == {"sp"}


@pytest.mark.parametrize("is_working_folder", [True, False])
def test_a_users_method_is_followed_to_the_files_beside_it(is_working_folder, copy, tmp_path):
    folder = tmp_path / "users"
    (folder / "losses").mkdir(parents=True)
    (folder / "mine.py").write_text(
        "from losses.norms import norm\nimport torch\n", encoding="utf-8"
    )
    (folder / "losses/norms.py").write_text("def norm(x):\n    return abs(x)\n", encoding="utf-8")
    (folder / "notes.py").write_text("", encoding="utf-8")
    methods = METHODS | {"mine": "mine:Mine"}
    places = {"working": folder} if is_working_folder else {"path": folder}
    before = hashes_in(copy, methods, **places)
    for file, expected in (
        ("users/mine.py", {"mine"}),
        ("users/losses/norms.py", {"mine"}),
        ("users/notes.py", set()),
        ("copy/baselines/sp.py", {"sp"}),
        ("copy/manifold/training/cohort.py", set(methods)),
    ):
        append(tmp_path / file, "\nEDITED = True\n")
        after = hashes_in(copy, methods, **places)
        assert changed(before, after) == expected
        before = after


def test_the_hash_is_the_same_in_every_process_folder_and_copy(copy, tmp_path):
    here = {name: source_hash(distiller) for name, distiller in METHODS.items()}
    assert len(set(here.values())) == len(METHODS)
    assert hashes_in(ROOT, seed="1") == here
    assert hashes_in(copy, seed="2") == here
    assert hashes_in(copy, working=tmp_path, seed="3") == here


def test_every_method_of_the_project_has_a_hash():
    definitions = read_yaml(ROOT / "config/methods.yaml")
    distillers = {definition["distiller"] for definition in definitions.values()}
    assert all(is_own(distiller) for distiller in distillers)
    modules = {distiller.partition(":")[0] for distiller in distillers}
    assert len({source_hash(distiller) for distiller in distillers}) == len(modules)


def test_every_module_that_is_left_out_is_there():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("manifold", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
    ]
    for pattern in sources.LEFT_OUT:
        assert any(fnmatchcase(name, pattern) for name in names), pattern


def test_all_statements_are_looked_through():
    for path in (ROOT / "manifold").rglob("*.py"):
        tree = ast.parse(path.read_bytes())
        expected = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        found = [node for node in statements(tree) if isinstance(node, ast.stmt)]
        assert len(found) == len(expected) and set(found) == set(expected)
