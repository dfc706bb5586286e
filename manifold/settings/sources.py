"""The sources that shape the weights of a cell, and one hash over them.

A method's hash covers its module, the training loop, and what both import of this project's or the
user's own modules. It is taken over syntax trees, so comments, docstrings and formatting change
nothing, and over the names of modules, so a copy of the sources elsewhere has the same hash.

Import statements are read and never run: the Snakefile asks while it plans, without torch. A module
whose name stands in a string alone (``importlib.import_module``) is therefore not seen.
"""

import ast
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from manifold.errors import UserError
from manifold.settings.syntax import digest, parse, statements

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("manifold", "baselines", "benchmarks")  # read from beside this file, and no others

EVERYTHING = "*"  # of a module that is imported as a whole
AND_SUITE = "+"  # between the hash of a user's files and that of this project's

# What trains every method; cohort, data, models, seeds and the like are what it imports.
TRAINING = ("manifold.training.train",)

# Modules, by pattern, that the two import and that shape no weight; what they import is not
# followed either.
LEFT_OUT = (
    "manifold",  # names that are found on first use, in modules that are followed where they count
    "manifold.settings*",  # what it says of a cell stands in the cell's identity, value by value
    "manifold.errors",  # words for people
    "manifold.files",  # how bytes reach the disk
    "manifold.training.command",  # the words of the command line
    "manifold.training.records",  # what is written of a run after it
    "manifold.training.description",  # as above
    "manifold.training.kept",  # which runs are not made again
    "benchmarks.evidence.cells",  # what is read of runs, and held to their identity
    "manifold.training.progress",  # what is shown of a run while it goes on
)

STANDARD_LIBRARY = tuple(
    Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")
)
INSTALLED = {"site-packages", "dist-packages"}  # folders of packages that pip and Debian install


# ---- what others ask for ---------------------------------------------------------------------


def tree_hash(path: Path) -> str:
    """Return the SHA-256 of a file's syntax tree, the same under every version of Python.

    Raises:
        UserError: the file is not Python.
    """
    return digest(parse(path))


def closure(modules: Iterable[str], importer: str = __name__) -> dict[str, Path]:
    """Return the files of these modules and of all own modules that they import, by name.

    Own modules are this project's, and the user's: what lies outside the standard library and the
    folders of installed packages. Imports inside functions count, and so do the ``__init__.py`` of
    the packages that a module is in.

    Args:
        importer: who asks for the modules, for the error's message.

    Raises:
        UserError: there is no source of a module that was asked for; imported ones are skipped.
    """
    found = _Modules().closure(modules, importer)
    return {name: found[name].path for name in sorted(found)}


@functools.cache
def source_hash(distiller: str, maker: str | None = None) -> str:
    """Return the hash of the sources that shape the weights of a cell of this method.

    It is taken once in a process, so that it is of the sources that the process runs.

    Args:
        distiller: module:Class.
        maker: the module of a study's job that trains the cell; None where ``manifold train`` does.

    Raises:
        UserError: there is no source of the module, or one that it needs is not Python.
    """
    return _hash_over(
        _shared_modules().closure([_module_of(distiller)], _asker(distiller), LEFT_OUT)
        | _shared_modules().closure(TRAINING, __name__, LEFT_OUT)
        | (covered_by_job(maker) if maker else {})
    )


@functools.cache
def training_hash() -> str:
    """Return the hash of what trains every method alike."""
    return _hash_over(_shared_modules().closure(TRAINING, __name__, LEFT_OUT))


@functools.cache
def job_hash(module: str) -> str:
    """Return the hash of a study's module and what it imports: of what its jobs or tables make.

    Declarations of studies that it imports are left out, and the tables that they alone lead to:
    what they say of a job stands in the job's identity. A user's declaration is not, where the job
    takes more from it than a study: functions, say, or constants.

    Raises:
        UserError: there is no source of the module.
    """
    return _hash_over(covered_by_job(module))


def covered_by_job(module: str) -> dict[str, "_Module"]:
    """What ``job_hash`` is taken over, by name."""
    modules, asker = _shared_modules(), f"the job {module!r}"
    left_out = (*LEFT_OUT, "benchmarks.evidence.kept")
    declarations = {
        name: found
        for name, found in modules.closure([module], asker, left_out).items()
        if name != module and modules.imports(found, "benchmarks.evidence.study")
    }
    of_job = modules.closure([module], asker, (*left_out, *declarations))
    taken_from = [
        name
        for name, found in declarations.items()
        if not is_projects(name)
        and any(modules.takes_more_than_studies(each, found) for each in of_job.values())
    ]
    left_out = (*left_out, *(declarations.keys() - taken_from))
    return modules.closure([module], asker, left_out)


def _hash_over(found: dict[str, "_Module"]) -> str:
    """One hash over modules; where some are a user's, theirs, ``AND_SUITE``, and the suite's."""
    users = sorted(name for name in found if not is_projects(name))
    suites = sorted(found.keys() - users)
    parts = (
        "".join(f"{name} {found[name].digest}\n" for name in names)
        for names in ([users, suites] if users else [suites])
    )
    return AND_SUITE.join(hashlib.sha256(part.encode()).hexdigest() for part in parts)


def users_part(hash_over: str) -> str:
    """What a user's own files add to a hash, or the whole of another's."""
    return hash_over.partition(AND_SUITE)[0]


def is_projects(module: str) -> bool:
    """Whether a module, or ``module:Class``, is this project's, and no user's."""
    return _module_of(module).partition(".")[0] in PROJECT


def is_own(distiller: str) -> bool:
    """Whether a method is this project's or the user's, so that its hash covers what it imports.

    Of a method from an installed package the hash covers the one module that is named.

    Raises:
        UserError: there is no such module.
    """
    return _shared_modules().find(_module_of(distiller), _asker(distiller)).is_own


def _module_of(distiller: str) -> str:
    return distiller.partition(":")[0]


def _asker(distiller: str) -> str:
    return f"the distiller {distiller!r}"


# ---- finding modules -------------------------------------------------------------------------


@dataclass
class _Module:
    """Where a module is; its file is read when it is first needed."""

    name: str
    path: Path | None  # None: a folder without __init__.py, or not Python source
    folders: list[Path]  # of a package, where its modules are

    @functools.cached_property
    def is_own(self) -> bool:
        if self.path is None:
            return False
        if is_projects(self.name):
            return True
        resolved = self.path.resolve()
        is_standard = any(resolved.is_relative_to(folder) for folder in STANDARD_LIBRARY)
        return not is_standard and INSTALLED.isdisjoint(self.path.parts)

    @functools.cached_property
    def tree(self) -> ast.Module:
        return parse(self.path)

    @functools.cached_property
    def digest(self) -> str:
        return digest(self.tree)


class _Modules:
    """Finds modules by name without importing any, and keeps what it has found."""

    def __init__(self):
        self._found: dict[str, _Module | None] = {}
        self._imports: dict[str, list[_Module]] = {}

    def closure(
        self, names: Iterable[str], importer: str, left_out: Iterable[str] = ()
    ) -> dict[str, _Module]:
        """The modules, and all own ones that they import but those of the patterns ``left_out``."""
        reached: dict[str, _Module] = {}
        pending: list[_Module] = []
        for name in names:
            module = reached[name] = self.find(name, importer)
            # An installed module may import others of its package, which are as little its user's.
            if module.is_own:
                pending += [*self._own_modules_to(name), *self._own_imports(module)]
        passed_by: set[str] = set()
        while pending:
            module = pending.pop()
            if module.name in reached or module.name in passed_by:
                continue
            if any(fnmatchcase(module.name, pattern) for pattern in left_out):
                passed_by.add(module.name)
                continue
            reached[module.name] = module
            pending += self._own_imports(module)
        return reached

    def find(self, name: str, importer: str) -> _Module:
        """The module that somebody asks for.

        Raises:
            UserError: there is none, or no Python source of it.
        """
        module = self._find(name)
        if module is None or module.path is None:
            raise UserError(
                f"{importer} asks for the module {name!r}, and no Python source of that name is "
                "found; correct the name (a method's 'distiller' is module:Class), or put the file "
                "into the folder that you start from or into one that PYTHONPATH names"
            )
        return module

    def imports(self, module: _Module, name: str) -> bool:
        """Whether a module's own statements import the own module of this name."""
        return any(own.name == name for own in self._own_imports(module))

    def takes_more_than_studies(self, module: _Module, declaration: _Module) -> bool:
        """Whether a module's statements take from a declaration what is none of its studies.

        Where they take the declaration itself, what of it is used is not said.
        """
        studies = _studies_in(declaration)
        return any(
            f"{source}.{name}" == declaration.name
            or (
                source == declaration.name
                and name not in studies
                and not self._find(f"{source}.{name}")
            )
            for source, name in _imports_of(module)
        )

    def _find(self, name: str) -> _Module | None:
        if name not in self._found:
            package, _, last = name.rpartition(".")
            if package:
                parent = self._find(package)
                self._found[name] = parent and _look_into(parent.folders, name, last)
            else:
                self._found[name] = _find_first_part(name)
        return self._found[name]

    def _own_imports(self, module: _Module) -> list[_Module]:
        if module.name not in self._imports:
            names = dict.fromkeys(_imported_names(module))
            self._imports[module.name] = [
                own for name in names for own in self._own_modules_to(name)
            ]
        return self._imports[module.name]

    def _own_modules_to(self, name: str) -> Iterator[_Module]:
        """The own modules that an import of this name runs: the packages first."""
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            module = self._find(".".join(parts[:count]))
            if module is not None and module.is_own:
                yield module
            elif module is None or module.path is not None:
                return  # there is none, or it is installed; a folder without __init__.py goes on


@functools.cache
def _shared_modules() -> _Modules:
    """What the hashes of all methods are read from: most of their files are the same."""
    return _Modules()


def _find_first_part(name: str) -> _Module | None:
    if name in PROJECT:
        return _look_into([ROOT], name, name)
    # A job is `python -m …`, which looks into its working folder first; Snakemake need not.
    found = _look_into([Path.cwd(), *map(Path, sys.path)], name, name)
    if found is not None:
        return found
    for finder in sys.meta_path:  # an editable installation brings a finder of its own
        spec = finder.find_spec(name, None)
        if spec is not None:
            is_source = spec.has_location and spec.origin.endswith(".py")
            folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
            return _Module(name, Path(spec.origin) if is_source else None, folders)
    return None


def _look_into(folders: list[Path], name: str, last: str) -> _Module | None:
    """The module as Python finds it: the first one; else all folders of its name are a package."""
    for folder in folders:
        package = folder / last
        if (package / "__init__.py").is_file():
            return _Module(name, package / "__init__.py", [package])
        if package.with_name(f"{last}.py").is_file():
            return _Module(name, package.with_name(f"{last}.py"), [])
    packages = [folder / last for folder in folders if (folder / last).is_dir()]
    return _Module(name, None, packages) if packages else None


def _imported_names(module: _Module) -> Iterator[str]:
    """What a module's import statements may name; some of it are no modules."""
    for source, name in _imports_of(module):
        yield source
        if name != EVERYTHING:
            yield f"{source}.{name}"


def _imports_of(module: _Module) -> Iterator[tuple[str, str]]:
    """What a module's import statements take: the name of a module, and a name in it."""
    parents = module.name.split(".")
    if not module.folders:
        parents.pop()
    for node in statements(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, EVERYTHING) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(parents):
            source = [] if node.module is None else [node.module]
            if node.level:
                source = [*parents[: len(parents) - node.level + 1], *source]
            yield from ((".".join(source), alias.name) for alias in node.names)


def _studies_in(declaration: _Module) -> set[str]:
    """The classes of a module that derive from this project's: studies, and their settings."""
    known = {
        name if name != EVERYTHING else source.partition(".")[0]
        for source, name in _imports_of(declaration)
        if is_projects(source)
    }
    found: set[str] = set()
    for node in declaration.tree.body:
        if isinstance(node, ast.ClassDef):
            leaves = (leaf for base in node.bases for leaf in ast.walk(base))
            if (known | found) & {leaf.id for leaf in leaves if isinstance(leaf, ast.Name)}:
                found.add(node.name)
    return found
