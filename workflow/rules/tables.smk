FORMATS = (".md", ".csv", ".tex", ".png", ".pdf")


TABLE1 = multiext(f"{RESULTS}/table1", *FORMATS)


TABLE1_CELLS = cells(EXPERIMENT.table1_cells())


RECIPES = multiext(
    f"{RESULTS}/recipes",
    *FORMATS,
    *("_variance.csv", "_seeds.csv"),
)


RECIPES_CELLS = (
    cells(EXPERIMENT.recipe_study_cells()) if EXPERIMENT.recipe_study else []
)


ABLATION = multiext(f"{RESULTS}/ablation", *FORMATS, "_seeds.csv")


ABLATION_CELLS = cells(EXPERIMENT.ablation_cells()) if EXPERIMENT.ablation else []


BENCH = multiext(f"{RESULTS}/bench", *FORMATS, "_claims.csv", "_seeds.csv")


BENCH_CELLS = cells(EXPERIMENT.bench_cells())


rule table1:
    """Every method's top-1 next to the reported one, with intervals, gains and verdicts."""
    input:
        cells=TABLE1_CELLS,
        teachers=expand(
            f"{RESULTS}/teachers/{{pair}}/evaluation.json",
            pair=EXPERIMENT.table1.pairs,
        ),
        claims=EXPERIMENT.claims,
    output:
        TABLE1,
        f"{RESULTS}/table1_claims.csv",
        f"{RESULTS}/table1_seeds.csv",
    log:
        f"{RESULTS}/logs/table1.txt",
    conda:
        "../../environment.yml"
    params:
        words=WORDS,
    message:
        f"Writing {RESULTS}/table1.*"
    shell:
        "python -m benchmarks.table1 --config {params.words:q} 2>&1 | tee {log:q}"


rule bench:
    """Table 1 of every method that the scale names."""
    input:
        cells=BENCH_CELLS,
        teachers=rules.table1.input.teachers,
        claims=EXPERIMENT.claims,
    output:
        BENCH,
    log:
        f"{RESULTS}/logs/bench.txt",
    conda:
        "../../environment.yml"
    params:
        words=WORDS,
    message:
        f"Writing {RESULTS}/bench.*"
    shell:
        "python -m benchmarks.table1 --bench --config {params.words:q} 2>&1 | tee {log:q}"


if EXPERIMENT.choice is not None:

    rule choice:
        """Validation accuracy over the grid that a scale's numbers are chosen from."""
        input:
            cells(EXPERIMENT.choice_cells()),
        output:
            f"{RESULTS}/choice.csv",
            f"{RESULTS}/choice.md",
        log:
            f"{RESULTS}/logs/choice.txt",
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
        message:
            f"Writing {RESULTS}/choice.csv"
        shell:
            "python -m benchmarks.choice --config {params.words:q} 2>&1 | tee {log:q}"


if EXPERIMENT.recipe_study is not None:

    rule recipes:
        """Methods under several recipes and budgets, and the variance that each explains."""
        input:
            RECIPES_CELLS,
            EXPERIMENT.recipe_study.public_curves,
        output:
            RECIPES,
        log:
            f"{RESULTS}/logs/recipes.txt",
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
        message:
            f"Writing {RESULTS}/recipes.*"
        shell:
            "python -m benchmarks.recipes --config {params.words:q} 2>&1 | tee {log:q}"


if EXPERIMENT.ablation is not None:

    rule ablation:
        """One method with one thing changed at a time."""
        input:
            ABLATION_CELLS,
            expand(
                f"{RESULTS}/teachers/{{pair}}/evaluation.json",
                pair=sorted({pair for pair, _, _ in EXPERIMENT.ablation_cells()}),
            ),
        output:
            ABLATION,
        log:
            f"{RESULTS}/logs/ablation.txt",
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
        message:
            f"Writing {RESULTS}/ablation.*"
        shell:
            "python -m benchmarks.ablation --config {params.words:q} 2>&1 | tee {log:q}"
