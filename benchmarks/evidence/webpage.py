"""The parts of a page that asks nobody for anything: its figures, its tables, and what it is of."""

import base64
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from manifold.errors import UserError

Families = dict[str, str | None]
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}  # the better one first
PNG, END_OF_PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
ASKING = ("image", "link", "autolink", "reference")  # what would send a reader elsewhere
WIDE = 7  # columns, beyond which a table folds, and is printed smaller
LOWER = {"h4": "h3", "h5": "h4"}  # a study's heading is an h2


@dataclass(frozen=True)
class Figure:
    """A picture in the page itself, with what it shows in words."""

    source: str
    text: str


@dataclass(frozen=True)
class Shown:
    """A study on the page."""

    name: str
    title: str
    question: str
    body: Markup
    figures: list[Figure] = field(default_factory=list)
    behind: Markup | None = None  # its rule, and the record of every run


def render(**parts: Any) -> str:
    """The page of its parts; what of them is not Markup is text."""
    environment = Environment(
        loader=PackageLoader("benchmarks.evidence", "."),
        autoescape=select_autoescape(["j2"]),
        undefined=StrictUndefined,
    )
    environment.globals["wide"] = WIDE
    return environment.get_template("report.html.j2").render(**parts)


def html(markdown: str, of: str, families: Families | None = None) -> Markup:
    """Markdown of a study's own as HTML; tags, pictures and links in it are text.

    Args:
        of: what it is of; with the section, and a number where that has several, the label of a
            table.
        families: of methods by their title; a table's rows are marked with theirs.
    """
    reader = _reader().enable("table")
    tokens, row, section, labels = reader.parse(markdown), None, "", Counter()
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            row = token
        elif token.type == "tr_close":
            row = None
        elif token.type == "inline" and row is not None and families:
            if (family := families.get(_text(token))) is not None:
                row.attrSet("data-family", family)
        elif token.type == "heading_open":
            section = _text(tokens[place + 1])
        elif token.type == "table_open":
            label = ": ".join(filter(None, [of, section]))
            labels[label] += 1
            number = f" ({labels[label]})" if labels[label] > 1 else ""
            token.attrSet("aria-label", f"{label}{number}")
            if _columns(tokens[place:]) > WIDE:
                token.attrSet("class", "wide")
        if token.type.startswith("heading_"):
            token.tag = LOWER.get(token.tag, token.tag)
    rendered = reader.renderer.render(tokens, reader.options, {})
    return Markup(rendered.replace("<pre>", '<pre tabindex="0">'))


def plain(markdown: str) -> str:
    """The words of a paragraph of Markdown, without its marks."""
    return " ".join(_text(token) for token in _reader().parse(markdown) if token.type == "inline")


def embedded(path: Path, text: str) -> Figure:
    """A picture's bytes for the page.

    Raises:
        UserError: the file is no whole picture.
    """
    content = path.read_bytes()
    if path.suffix == ".png":
        is_whole = content.startswith(PNG) and content.endswith(END_OF_PNG)
    else:
        try:
            is_whole = ElementTree.fromstring(content).tag.endswith("svg")
        except ElementTree.ParseError:
            is_whole = False
    if not is_whole:
        raise UserError(f"{path} is no whole {path.suffix[1:].upper()} file")
    source = f"data:{KINDS[path.suffix]};base64,{base64.b64encode(content).decode()}"
    return Figure(source, text)


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False}).disable(ASKING)
    reader.add_render_rule("table_open", _open_table)
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return reader


def _open_table(renderer: Any, tokens: list[Token], place: int, *_: Any) -> str:
    """A table in a box that scrolls, which keys reach; both say what it is of."""
    label = Markup.escape(tokens[place].attrGet("aria-label"))
    box = f'<div class="table" role="group" aria-label="{label}, scrolls sideways" tabindex="0">'
    return f"{box}<table{renderer.renderAttrs(tokens[place])}>\n"


def _columns(tokens: list[Token]) -> int:
    """Of the table that the first of the tokens opens."""
    kinds = [token.type for token in tokens]
    return kinds[: kinds.index("thead_close")].count("th_open")


def _text(token: Token) -> str:
    return "".join(child.content or " " * (child.type == "softbreak") for child in token.children)
