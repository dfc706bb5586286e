TABLE1 = expand(
    f"{RESULTS}/table1.{{suffix}}", suffix=["md", "csv", "tex", "png", "pdf"]
)


TABLE1_CELLS = cells(
    EXPERIMENT.table1.pairs, EXPERIMENT.table1.recipe, EXPERIMENT.table1.epochs
)


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


if EXPERIMENT.choice is not None:

    rule choice:
        """Validation accuracy over the grid that a scale's numbers are chosen from."""
        input:
            cells(
                EXPERIMENT.choice.pairs,
                EXPERIMENT.choice.recipes,
                EXPERIMENT.choice.epochs,
            ),
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
