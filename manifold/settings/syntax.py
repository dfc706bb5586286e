"""Python files as syntax trees, and a hash that comments and formatting do not change."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from manifold.errors import UserError

# Fields of syntax trees that follow from the others, or that are not code.
_NOT_CODE = {"ctx", "kind", "type_comment", "type_ignores"}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a module or a statement; ``ast.walk`` takes three times as long."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, ()):
            yield child
            yield from statements(child)


def parse(path: Path) -> ast.Module:
    """The tree of a file.

    Raises:
        UserError: it is not Python.
    """
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, before Python 3.12
        raise UserError(f"{path} is not Python: {error}; correct it") from error


def digest(tree: ast.Module) -> str:
    """The SHA-256 of a tree without docstrings, the same under every version of Python."""
    return hashlib.sha256(_canonical(tree).encode()).hexdigest()


def _canonical(node: object) -> str:
    """A text of a syntax tree, without docstrings.

    ``ast.dump`` will not do: it differs from one version of Python to the next.
    """
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if isinstance(node, ast.Constant):
        return f"Constant({node.value!a})"  # not !r: what is printable is each version's own
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body":
            value = _without_docstring(node)
        elif isinstance(node, ast.JoinedStr):
            value = _joined(node)
        # A field that is empty is one that another version of Python may not have.
        if name not in _NOT_CODE and value is not None and value != []:
            fields.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _without_docstring(node: ast.AST) -> object:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if not isinstance(node, kinds) or ast.get_docstring(node, clean=False) is None:
        return node.body
    rest = node.body[1:]
    if isinstance(node, ast.Module):
        return rest
    return rest or [ast.Pass()]  # what stands there where there is no docstring


def _joined(node: ast.JoinedStr) -> list[ast.expr]:
    """The parts of an f-string, its text in as few pieces as can be, as some versions have it."""
    parts: list[ast.expr] = []
    for part in node.values:
        is_text = isinstance(part, ast.Constant)
        if is_text and parts and isinstance(parts[-1], ast.Constant):
            parts[-1] = ast.Constant(parts[-1].value + part.value)
        elif not is_text or part.value:
            parts.append(part)
    return parts
