wildcard_constraints:
    pair=r"[^/]+",
    recipe=r"[^/]+",
    epochs=r"\d+",
    seed=r"\d+",


rule train_teacher:
    """Train a pair's teacher with the loop that trains the students, without distillation."""
    input:
        rules.preflight.output,
    output:
        update(
            expand(
                f"{RESULTS}/teachers/{{pair}}/{{file}}",
                file=CELL_FILES,
                allow_missing=True,
            )
        ),
    log:
        f"{RESULTS}/logs/teacher-{{pair}}.txt",
    conda:
        "../../environment.yml"
    threads: cpus(MACHINE)
    resources:
        **resources(MACHINE),
    params:
        words=WORDS,
        launch=LAUNCH,
        fingerprint=lambda wildcards: fingerprint(
            EXPERIMENT.teacher_identity(wildcards.pair)
        ),
    message:
        "Training the teacher of {wildcards.pair}; log: {log}"
    shell:
        "{params.launch} -m manifold.train --config {params.words:q} --pair {wildcards.pair:q}"
        " --teacher 2>&1 | tee {log:q}"


rule fetch_teacher:
    """Download timm's weights of a teacher's name; on a cluster, where the network is."""
    input:
        rules.preflight.output,
    output:
        f"{RESULTS}/teachers/{{pair}}/pretrained.safetensors",
        f"{RESULTS}/teachers/{{pair}}/pretrained.json",
    log:
        f"{RESULTS}/logs/fetch-teacher-{{pair}}.txt",
    conda:
        "../../environment.yml"
    params:
        words=WORDS,
    message:
        "Fetching the teacher of {wildcards.pair}"
    shell:
        "python -m manifold.fetch --config {params.words:q} --pair {wildcards.pair:q}"
        " 2>&1 | tee {log:q}"


rule initialise_teacher:
    """Write the weights of a teacher that knows nothing."""
    input:
        rules.preflight.output,
    output:
        f"{RESULTS}/teachers/{{pair}}/untrained.safetensors",
        f"{RESULTS}/teachers/{{pair}}/untrained.json",
    log:
        f"{RESULTS}/logs/initialise-teacher-{{pair}}.txt",
    conda:
        "../../environment.yml"
    params:
        words=WORDS,
    message:
        "Initialising the teacher of {wildcards.pair}"
    shell:
        "python -m manifold.untrained --config {params.words:q} --pair {wildcards.pair:q}"
        " 2>&1 | tee {log:q}"


rule evaluate_teacher:
    """Measure a pair's teacher on the split that the students are measured on."""
    input:
        preflight=rules.preflight.output,
        teacher=lambda wildcards: EXPERIMENT.teacher_weights(wildcards.pair),
    output:
        f"{RESULTS}/teachers/{{pair}}/evaluation.json",
    log:
        f"{RESULTS}/logs/evaluate-teacher-{{pair}}.txt",
    conda:
        "../../environment.yml"
    threads: cpus(MACHINE, processes=1)
    resources:
        **resources(MACHINE, processes=1),
    params:
        words=WORDS,
        launch=launcher(MACHINE, processes=1),
    message:
        "Measuring the teacher of {wildcards.pair}"
    shell:
        "{params.launch} -m benchmarks.teacher --config {params.words:q} --pair {wildcards.pair:q}"
        " 2>&1 | tee {log:q}"


# A cohort is one job: its methods share the batches and the teacher's passes. `update` keeps the
# cells that are there when one of them has to be trained again.
for (pair, recipe, epochs), cohorts in EXPERIMENT.trainings().items():
    for number, methods in enumerate(cohorts):

        rule:
            name:
                re.sub(r"\W", "_", f"train_{pair}_{recipe}_{epochs}_{number}")
            input:
                preflight=rules.preflight.output,
                teacher=EXPERIMENT.teacher_weights(pair),
            output:
                update(
                    expand(
                        CELL,
                        pair=pair,
                        recipe=recipe,
                        epochs=epochs,
                        method=methods,
                        file=CELL_FILES,
                        allow_missing=True,
                    )
                ),
            log:
                f"{RESULTS}/logs/cohort-{number}-{pair}-{recipe}-{epochs}-seed-{{seed}}.txt",
            conda:
                "../../environment.yml"
            threads: cpus(MACHINE)
            resources:
                **resources(MACHINE),
            params:
                words=WORDS,
                launch=LAUNCH,
                pair=pair,
                recipe=recipe,
                epochs=epochs,
                methods=methods,
                fingerprint=identity_of(pair, recipe, epochs, methods),
            message:
                "Training seed {wildcards.seed} of {params.methods} ({params.pair}, recipe"
                " {params.recipe}, {params.epochs} epochs); log: {log}"
            shell:
                "{params.launch} -m manifold.train --config {params.words:q}"
                " --pair {params.pair:q} --recipe {params.recipe:q}"
                " --epochs {params.epochs} --seed {wildcards.seed}"
                " --methods {params.methods:q} 2>&1 | tee {log:q}"
