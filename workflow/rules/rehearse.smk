REHEARSAL = multiext(f"{RESULTS}/rehearsal", ".md", ".csv", "_networks.csv")


rule rehearsal_images:
    """Make a small ImageFolder of real-sized JPEGs."""
    output:
        directory(f"{RESULTS}/rehearsal/images"),
    log:
        f"{RESULTS}/logs/rehearsal-images.txt",
    conda:
        "../../environment.yml"
    params:
        words=WORDS,
    message:
        "Making the rehearsal's images"
    shell:
        "python -m benchmarks.rehearse --config {params.words:q} --images 2>&1 | tee {log:q}"


rule rehearse_pair:
    """A few steps of every method at full shapes: train, kill, resume, evaluate."""
    input:
        rules.rehearsal_images.output,
    output:
        f"{RESULTS}/rehearsal/{{pair}}-{{recipe}}.json",
    log:
        f"{RESULTS}/logs/rehearsal-{{pair}}-{{recipe}}.txt",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT.rehearsal.processes
    params:
        words=WORDS,
    message:
        "Rehearsing {wildcards.pair}, recipe {wildcards.recipe}"
    shell:
        "python -m benchmarks.rehearse --config {params.words:q} --pair {wildcards.pair:q}"
        " --recipe {wildcards.recipe:q} 2>&1 | tee {log:q}"


rule rehearsal:
    """Parameters and FLOPs next to the published ones, throughput, memory, projected GPU-hours."""
    input:
        expand(
            rules.rehearse_pair.output,
            pair=EXPERIMENT.table1.pairs,
            recipe=EXPERIMENT.rehearsed_recipes(),
        ),
        EXPERIMENT.networks,
    output:
        REHEARSAL,
    log:
        f"{RESULTS}/logs/rehearsal.txt",
    conda:
        "../../environment.yml"
    params:
        words=WORDS,
    message:
        f"Writing {RESULTS}/rehearsal.md"
    shell:
        "python -m benchmarks.rehearse --config {params.words:q} --collect 2>&1 | tee {log:q}"
