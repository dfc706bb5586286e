"""The site of the documentation: `sphinx-build -W -c docs . build/site` writes it.

The whole clone is its source, since pages point at configuration, code and published tables; a file
that is pointed at and is no page stands in the site as a download.
"""

import shutil
from pathlib import Path

project = "Manifold distillation, reproduced"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "README"
html_theme = "furo"
html_title = project
html_show_copyright = False
html_copy_source = False
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # generated pages begin their parts below their tables' level

CONTENTS = {
    "What is known": ["docs/findings", "docs/results", "docs/evidence", "docs/methods"],
    "Using it": [
        *("docs/running", "docs/inputs", "docs/own-method", "docs/studies", "docs/detection"),
        "docs/segmentation",
        *("docs/cost", "docs/paper-scale", "profiles/README", "config/README"),
    ],
    "Behind it": [
        *("docs/architecture", "docs/mini", "docs/checklists", "CONTRIBUTING", "CHANGELOG"),
        "results/reported/README",
    ],
    "Published tables": ["results/published/*/*"],
}
include_patterns = [
    "README.md",
    *(f"{page}.md" for pages in CONTENTS.values() for page in pages),
]


def add_contents(app, page, source):
    """Give the front page, which is the README as it stands, the site's table of contents."""
    if page == root_doc:
        for caption, pages in CONTENTS.items():
            listed = "\n".join(pages)
            options = f":caption: {caption}\n:hidden:\n:glob:\n:maxdepth: 1\n"
            source[0] += f"\n```{{toctree}}\n{options}\n{listed}\n```\n"


def name_the_front_page(app, exception):
    """Servers open index.html."""
    if exception is None:
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app):
    app.connect("source-read", add_contents)
    app.connect("build-finished", name_the_front_page)
