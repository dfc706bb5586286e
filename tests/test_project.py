"""The project's own files agree with each other, and are formatted and linted."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from benchmarks.detection.schedule import chosen
from benchmarks.evidence import methods_page, publish, report, students, sums, verify
from benchmarks.evidence.folder import experiment_of
from benchmarks.evidence.times import times_table
from manifold.errors import UserError
from manifold.settings import ROOT, resolve, to_plain
from manifold.training.records import check_weights, read_run


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_environment_for_conda_lists_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert packages == {"pip": pins()}


def test_every_dependency_is_pinned_to_the_same_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = project["dependencies"] + [
        dependency for extra in project["optional-dependencies"].values() for dependency in extra
    ]
    pinned = {line.split(";")[0].lower() for line in pins()}
    assert direct and all("==" in dependency for dependency in direct)
    assert {dependency.lower() for dependency in direct} <= pinned


def test_the_version_is_one_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == project["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## .*$", changes, re.MULTILINE)[0]
    assert project["version"] in latest


def test_the_container_is_set_up_as_a_clone_is():
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    assert [word for word, _ in steps] == ["FROM", "RUN", "WORKDIR", "COPY", "RUN", "ENV", "CMD"]
    assert steps[4][1] == ". ./setup.sh"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = re.fullmatch(r"python:([\d.]+)-slim-bookworm", steps[0][1])[1]
    assert f"{python}.0" in SpecifierSet(project["requires-python"])
    assert f"{steps[2][1]}/.venv/bin:" in steps[5][1]  # which setup.sh makes
    assert json.loads(steps[6][1])[-1] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["packages"]
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in ("manifold", "baselines", "benchmarks")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert set(listed) == there


def test_no_registry_is_named():
    for name in ("constraints.txt", "environment.yml", "pyproject.toml", "setup.sh"):
        assert not re.search(r"https?://", (ROOT / name).read_text(encoding="utf-8")), name


def test_python_is_formatted_and_linted():
    for arguments in (["format", "--check"], ["check"]):
        done = run(sys.executable, "-m", "ruff", *arguments, ".")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_site_is_built_and_every_link_and_heading_is_there(tmp_path):
    arguments = ["--quiet", "--fail-on-warning", "-d", str(tmp_path / "trees"), "-c", "docs"]
    done = run(sys.executable, "-m", "sphinx", *arguments, ".", str(tmp_path / "site"))
    assert done.returncode == 0, done.stdout + done.stderr
    front = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]:
        link = page.relative_to(ROOT).with_suffix(".html").as_posix()
        assert f'href="{link}"' in front, f"{link}: docs/conf.py lists it nowhere"


@pytest.mark.slow
def test_snakefiles_are_formatted_and_linted(on_path):
    files = ["Snakefile", *map(str, sorted((ROOT / "workflow").rglob("*.smk")))]
    done = run(sys.executable, "-m", "snakefmt", "--check", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    for scale in ("smoke", "mini-choice"):
        done = run("python", "-m", "snakemake", "--lint", "--config", f"scale={scale}")
        assert done.returncode == 0, done.stdout + done.stderr


def without_encoding(tree):
    """Calls that open text and leave it to the locale how its bytes are read."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or {"encoding", None} & {k.arg for k in node.keywords}:
            continue
        is_method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if is_method else getattr(node.func, "id", "")
        if ast.unparse(node.func) == "os.open":  # which gives a number
            continue
        texts = [word.value for word in node.args if isinstance(word, ast.Constant)]
        if (
            (is_method and name == "read_text" and not node.args)
            or (is_method and name == "write_text" and len(node.args) == 1)
            or (is_method and name == "open" and (not node.args or texts) and "b" not in str(texts))
            or (not is_method and name == "open" and "b" not in str(texts))
            or any(k.arg == "text" and ast.unparse(k.value) == "True" for k in node.keywords)
        ):
            yield node


@pytest.mark.slow
def test_every_file_is_opened_in_an_encoding_that_is_said():
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for folder in ("manifold", "baselines", "benchmarks", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in without_encoding(ast.parse(path.read_bytes()))
    ]
    assert not found


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("write_text(path, text)", False),
        ("path.open()", True),
        ("path.open('w', newline='')", True),
        ("path.open('rb')", False),
        ("open(path)", True),
        ("open(path, 'wb')", False),
        ("Image.open(path)", False),
        ("os.open('name', os.O_RDWR)", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, text=True, encoding='utf-8')", False),
        ("TEMPLATE.format(text=text)", False),
    ],
)
def test_what_leaves_the_encoding_to_the_locale(code, is_found):
    assert bool(list(without_encoding(ast.parse(code)))) == is_found


def test_the_readmes_test_command_is_what_ci_runs():
    command = ". ./setup.sh && python -m pytest"
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_docs_show_the_published_tables_to_the_letter():
    published = ROOT / "results/published/mini"
    studies = list(resolve({"scale": "mini"}).studies.values())
    assert publish.PAGE.read_text(encoding="utf-8") == publish.results_page(studies, published)
    rows = pd.read_csv(published / f"{publish.IN_README}.csv")
    shown = publish.in_short(rows, resolve({"scale": "mini"}))
    assert shown_in(publish.README, publish.IN_README) == shown


def test_the_docs_show_what_the_published_runs_took():
    shown = shown_in(publish.RUNNING, "times")
    assert shown == times_table(publish.PUBLISHED)
    assert "| `flowers` |" in shown  # its words point at that row


def shown_in(page, name):
    begin, end = publish.markers(name)
    return page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["mini", "cifar10"])
def test_the_published_table_is_made_of_its_records_to_the_letter(scale):
    found, published = students.Verified(), ROOT / f"results/published/{scale}"
    verify.verify_tables(experiment_of(published), published, found)
    assert found.other == []
    for name in ("table1.csv", "table1_seeds.csv", "table1.md", "table1.tex"):
        assert f"{published / name} from its records" in found.same


@pytest.mark.slow
def test_the_published_bench_is_made_of_its_records_to_the_letter():
    found, published = students.Verified(), ROOT / "results/published/mini"
    verify.verify_tables(experiment_of(published), published, found)
    assert found.other == []
    for name in ("bench.csv", "bench_seeds.csv", "bench_contrasts.csv", "bench.md", "bench.tex"):
        assert f"{published / name} from its records" in found.same


def test_the_published_files_are_those_of_their_sums():
    folders = [path for path in publish.PUBLISHED.iterdir() if path.is_dir()]
    faults = [fault for folder in folders for fault in sums.check(folder)]
    assert folders and faults == [], "run: python -m benchmarks publish --pages-alone"


@pytest.mark.parametrize("scale", ["mini", "cifar10"])
def test_the_students_of_table_1s_first_seed_are_published(scale):
    folder = ROOT / "results/published" / scale
    made, runs = experiment_of(folder), students.published_runs(folder)
    methods = sorted(made.methods_of("deit-cait"))
    assert sorted(path.parts[-3] for path in runs) == methods
    assert {path.parts[-2] for path in runs} == {f"seed-{made.seeds[0]}"}


def test_a_published_student_reaches_what_its_record_says(monkeypatch):
    """One of them; ``python -m benchmarks verify --published`` evaluates all."""
    folder = ROOT / "results/published/mini"
    made, found = experiment_of(folder), students.Verified()
    raw = ROOT / made.data.folder / "FashionMNIST/raw/t10k-images-idx3-ubyte"
    if not raw.is_file():
        pytest.skip(f"Fashion-MNIST is not there ({raw}); a run of mini fetches it")
    (one,) = (path for path in students.published_runs(folder) if path.parts[-3] == "manifold")
    monkeypatch.setattr(students, "published_runs", lambda _: [one])
    students.verify_published_students(made, folder, found)
    assert found.other == found.unknown == []
    assert found.same[-1].startswith("1 student(s) reach what their records say")


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["mini", "cifar10"])
def test_the_published_page_is_that_of_the_published_files(scale):
    published = ROOT / "results/published" / scale
    page = published / report.REPORT
    assert page.read_text(encoding="utf-8") == report.page(resolve({"scale": scale}), published)
    assert page.stat().st_size < 6e6


def test_what_is_said_of_detection_is_what_its_table_says():
    rows = pd.read_csv(ROOT / "results/published/mini/detection.csv")
    columns = rows.groupby(["detector", "kind"])
    assert len(columns) == 3 and (rows["n"] == 2).all()
    assert (rows["p_holm"].dropna() >= 0.05).all() and rows["p_holm"].notna().sum() == 3 * 4
    assert {own.loc[own["ap_mean"].idxmin(), "method"] for _, own in columns} == {"soft_kd"}
    first = [own.loc[own["ap_mean"].idxmax(), "method"] for _, own in columns]
    assert sorted(first) == ["fitnet", "manifold", "patch_embedding"]
    controls = rows[rows["method"].isin(["random", "patch_embedding"])]
    assert ((controls["gain_low"] < 0) & (controls["gain_high"] > 0)).all()
    told = rows[(rows["over_patch_embedding_high"] < 0) | (rows["over_patch_embedding_low"] > 0)]
    assert set(zip(told["detector"], told["kind"], told["method"], strict=True)) == {
        ("mask_rcnn", "bbox", "manifold_full"),
        ("retinanet", "bbox", "manifold_full"),
    }
    assert (told["over_patch_embedding_high"] < 0).all()
    assert (rows["ap_mean"] > 5 * rows["ap_random_classes_mean"]).all()
    other = pd.read_csv(ROOT / "results/published/mini-detection/detection.csv")
    assert rows.equals(other)  # of the records


def test_the_terms_at_equal_gradient_are_those_that_were_measured():
    rows = pd.read_csv(ROOT / "results/published/mini/table1.csv").set_index("method")
    pairs = (pair.split("=") for pair in rows.loc["manifold", "gradient_shares"].split())
    shares = {term: float(share) for term, share in pairs}
    definitions = resolve({"scale": "mini"}).method_definitions
    own, equal = (definitions[name].arguments for name in ("manifold", "manifold_equal"))
    for term in ("intra", "inter", "random"):
        factor = shares["intra"] / shares[term]
        assert equal[term] == pytest.approx(factor * own[term], rel=0.05)
        if term != "intra":
            assert definitions[f"manifold_{term}_equal"].arguments[term] == equal[term]


def test_the_page_of_the_methods_is_that_of_their_classes():
    assert methods_page.PAGE.read_text(encoding="utf-8") == methods_page.page(), (
        "run: python -m benchmarks describe-methods"
    )


def test_the_readme_is_one_page_and_its_links_lead_somewhere():
    assert len(publish.README.read_text(encoding="utf-8").splitlines()) <= 150
    pages = [publish.README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    broken = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if target.startswith(("http:", "https:")):
                continue
            found = (page.parent / path).resolve() if path else page
            if not found.exists() or (anchor and anchor not in anchors(found)):
                broken.append(f"{page.name}: {target}")
    assert broken == []
    linked = publish.README.read_text(encoding="utf-8")
    assert [page.name for page in pages[2:] if f"docs/{page.name}" not in linked] == []


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


NOT_YET_PUBLISHED = {"budgets", "hierarchical"}  # they take hours


def test_every_study_that_is_published_is_on_the_page():
    page = publish.PAGE.read_text(encoding="utf-8")
    for study in resolve({"scale": "mini"}).studies.values():
        assert (f"## {study.title}\n\n*{study.question}*" in page) == (
            study.is_evidence and study.name not in NOT_YET_PUBLISHED
        )


def test_the_jobs_environment_holds_what_they_import_and_no_more():
    """Of constraints.txt, what follows from the packages without Snakemake, tests and linters."""
    (_, _, packages) = yaml.safe_load(
        (ROOT / "workflow/envs/suite.yaml").read_text(encoding="utf-8")
    )["dependencies"]
    pinned = {line.split(";")[0].split("==")[0].lower().replace("_", "-"): line for line in pins()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["transfer"], *extras["detection"]]
    pending = [Requirement(line).name for line in asked if not line.startswith("snakemake")]
    needed = set()
    while pending:
        name = pending.pop().lower().replace("_", "-")
        if name not in needed:
            needed.add(name)
            for line in metadata.requires(name) or []:
                requirement = Requirement(line)
                if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                    pending.append(requirement.name)
                    pending += [
                        inner.name
                        for extra in requirement.extras
                        for inner in map(Requirement, metadata.requires(requirement.name) or [])
                        if inner.marker and inner.marker.evaluate({"extra": extra})
                    ]
    assert set(packages["pip"]) == {pinned[name] for name in needed}
    assert not {"snakemake", "pytest", "ruff"} & needed


def test_a_block_of_the_readme_is_the_caption_and_the_sections_that_are_asked_for():
    table = "# T\n\ncaption\n\n| a |\n\n## One\n\nfirst\n\n## Two\n\n- second\n"
    assert publish.block(table, ("Two",)) == "caption\n\n#### Two\n\n- second"
    whole = "caption\n\n| a |\n\n#### One\n\nfirst\n\n#### Two\n\n- second"
    assert publish.block(table) == whole
    with pytest.raises(UserError, match="'T' has no section 'Three'"):
        publish.block(table, ("Three",))


def test_a_readme_without_markers_is_refused_and_what_is_around_them_stays(tmp_path):
    readme = tmp_path / "README.md"
    begin, end = publish.markers("bench")
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    publish.update_readme(readme, "bench", "new")
    assert readme.read_text(encoding="utf-8") == f"before\n{begin}\nnew\n{end}\nafter\n"
    with pytest.raises(UserError, match="lacks the markers <!-- recipes: begin -->"):
        publish.update_readme(readme, "recipes", "new")


def test_the_hours_in_the_docs_are_those_of_the_rehearsal():
    runs = pd.read_csv(ROOT / "results/published/imagenet/rehearsal.csv").set_index("pair")
    hours = runs.loc["deit_tiny-cait_s24", "gpu_hours_per_seed"].iloc[0]
    assert f"{hours:,.0f} GPU-hours a seed" in (ROOT / "docs/paper-scale.md").read_text(
        encoding="utf-8"
    )
    assert runs["peak_memory_gib"].max() < 16


def test_the_docs_name_the_methods_of_the_bench_that_are_not_rehearsed():
    made = resolve({"scale": "imagenet"})
    rehearsal, docs = made.studies["rehearsal"], (ROOT / "docs/paper-scale.md").read_text("utf-8")
    rehearsed = {method for pair in rehearsal.pairs() for method in rehearsal.methods(pair)}
    others = [name for name in made.studies["bench"].settings.methods if name not in rehearsed]
    (said,) = re.findall(r"the bench's are not among\s+them: (.*?)\)", docs, flags=re.DOTALL)
    titles = {made.method_definitions[name].title.split(",")[0] for name in others}
    assert set(re.split(r",\s+|\s+and\s+", said)) == titles and len(others) == 11


def test_mini_is_the_choice_that_was_published():
    choice = pd.read_csv(ROOT / "results/published/mini-choice/choice.csv")
    best = choice.groupby("recipe")["validation_top1"].mean().idxmax()
    grid = resolve({"scale": "mini-choice"}).recipes
    assert resolve({"scale": "mini"}).recipes["A"] == grid[best]
    assert set(choice["method"]) == {"none", "soft_kd"}


def test_choices_are_made_without_the_manifold_arms_on_data_that_no_table_uses():
    mini = resolve({"scale": "mini"})
    choices = ["mini-choice", "mini-teacher-choice"]
    choices += ["mini-detection-choice", "mini-detection-rate-choice"]
    for name in choices:
        grid = resolve({"scale": name})
        assert grid.evaluation_split == "validation" and not set(grid.seeds) & set(mini.seeds)
        methods = {m for of in grid.trainings().values() for cohort in of for m in cohort}
        assert methods <= {"none", "soft_kd"}
    points = grid.detection.detectors
    assert {name.split("-")[0] for name in points} == set(mini.detection.detectors)
    assert all(file.endswith(f"{name[-4:]}.py") for name, file in points.items())


def test_minis_detectors_have_the_rate_that_was_published_as_the_best():
    rows = pd.read_csv(ROOT / "results/published/mini-detection-rate-choice/detection.csv")
    boxes = rows[rows["kind"] == "bbox"].groupby("detector")["ap_mean"].mean()
    own = (ROOT / "config/detection/mini/base.py").read_text(encoding="utf-8")
    for name, file in resolve({"scale": "mini"}).detection.detectors.items():
        best = boxes[[point for point in boxes.index if point.startswith(f"{name}-")]].idxmax()
        assert f"lr={best.removeprefix(f'{name}-')}," in own
        assert "lr=" not in (ROOT / file).read_text(encoding="utf-8")


def test_the_docs_say_what_the_published_grid_of_schedules_chose():
    published = ROOT / "results/published/mini-detection-choice"
    study = experiment_of(published).studies["detection_schedule"]
    rows = pd.read_csv(published / "detection_schedule.csv")
    means = rows.groupby(["schedule", "kind", "epochs"])["validation_ap"].mean().unstack("kind")
    outcome = {
        name: chosen(means.loc[name].dropna(axis="columns"), study.settings.least_rise)
        for name in study.settings.schedules
    }
    shown = (published / "detection_schedule.md").read_text(encoding="utf-8")
    docs = (ROOT / "docs/detection.md").read_text(encoding="utf-8")
    files = resolve({"scale": "mini"}).detection.detectors
    for name, epochs in outcome.items():
        if epochs is None:
            assert f"{name}: AP rises still" in shown and "no length of the grid is enough" in docs
        else:
            own = (ROOT / files[name]).read_text(encoding="utf-8")
            assert f"max_epochs={epochs})" in own


def test_a_teachers_grid_holds_the_networks_and_recipes_of_minis_teachers():
    mini, grid = resolve({"scale": "mini"}), resolve({"scale": "mini-teacher-choice"})
    networks = [grid.pairs[pair].student for pair in grid.choice.pairs]
    teachers = [mini.pairs[pair].teacher for pair in ("deit-cait", "deit-strong-cait")]
    assert networks == [teacher.model for teacher in teachers]
    for teacher in teachers:
        assert teacher.recipe in grid.choice.recipes and teacher.epochs in grid.choice.epochs
        assert grid.recipes[teacher.recipe] == mini.recipes[teacher.recipe]


def test_the_teacher_that_ships_is_the_one_of_its_record():
    weights = resolve({"scale": "mini"}).teacher_weights("deit-cait")
    check_weights(weights)
    record = read_run(weights.with_name("run.json"))
    assert record["result"]["images"] == 10000
    assert record["environment"]["git_dirty"] is False
    cifar10 = resolve({"scale": "cifar10"})
    other = cifar10.teacher_weights("deit-cait")
    check_weights(other)
    made = read_run(other.with_name("run.json"))
    assert made["environment"]["git_dirty"] is False and made["epochs"] == 30
    assert made["configuration"]["recipe"] == to_plain(cifar10.recipes["teacher"])
    table = pd.read_csv(ROOT / "results/published/mini/table1.csv").set_index("method")
    assert table.loc["teacher", "top1_mean"] == pytest.approx(record["result"]["top1"])
    assert table.loc["teacher", "top1_mean"] > table["top1_mean"].drop("teacher").max() + 3


def test_published_runs_are_compared_by_a_column_of_theirs():
    found = 0
    for study in resolve({"scale": "mini"}).studies.values():
        for path in (ROOT / "results/published").glob(f"*/{study.name}_seeds.csv"):
            if study.measured is not None:
                assert study.measured in pd.read_csv(path, nrows=0).columns, path
                found += 1
    assert found
