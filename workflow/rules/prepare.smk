rule preflight:
    """Find and check the data, build every network and method once: errors come before compute."""
    output:
        f"{RESULTS}/preflight.json",
    log:
        f"{RESULTS}/logs/preflight.txt",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT.machine.threads
    params:
        words=WORDS,
    message:
        f"Checking data, networks and methods of scale {EXPERIMENT.name}"
    shell:
        "python -m manifold.preflight --config {params.words:q} --output {output:q} 2>&1 | tee {log:q}"
