rule train_teacher:
    """Train a pair's teacher with the loop that trains the students, without distillation."""
    output:
        expand(
            f"{RESULTS}/teachers/{{pair}}/{{file}}",
            file=CELL_FILES,
            allow_missing=True,
        ),
    log:
        f"{RESULTS}/logs/teacher-{{pair}}.txt",
    benchmark:
        f"{RESULTS}/benchmarks/teacher-{{pair}}.tsv"
    conda:
        "../envs/suite.yaml"
    threads: cpus(MACHINE)
    resources:
        **resources(MACHINE),
    params:
        experiment=str(EXPERIMENT.file),
        fingerprint=identity_of_teacher,
        making=making_of_teacher("run.json"),
    message:
        "Training the teacher of {wildcards.pair}; log: {log}"
    shell:
        "python -m manifold start --experiment {params.experiment:q} -- -m manifold train --experiment {params.experiment:q} --pair {wildcards.pair:q}"
        " --teacher 2>&1 | tee {log:q}"


rule fetch_teacher:
    """Download timm's weights of a teacher's name; on a cluster, where the network is."""
    output:
        f"{RESULTS}/teachers/{{pair}}/pretrained.safetensors",
        f"{RESULTS}/teachers/{{pair}}/pretrained.json",
    log:
        f"{RESULTS}/logs/fetch-teacher-{{pair}}.txt",
    localrule: True
    conda:
        "../envs/suite.yaml"
    params:
        experiment=str(EXPERIMENT.file),
        fingerprint=identity_of_teacher,
        making=making_of_teacher("pretrained.json", data=None),
    message:
        "Fetching the teacher of {wildcards.pair}"
    shell:
        "python -m manifold fetch-teacher --experiment {params.experiment:q} --pair {wildcards.pair:q}"
        " 2>&1 | tee {log:q}"


rule initialise_teacher:
    """Write the weights of a teacher that knows nothing."""
    output:
        f"{RESULTS}/teachers/{{pair}}/untrained.safetensors",
        f"{RESULTS}/teachers/{{pair}}/untrained.json",
    log:
        f"{RESULTS}/logs/initialise-teacher-{{pair}}.txt",
    localrule: True
    conda:
        "../envs/suite.yaml"
    params:
        experiment=str(EXPERIMENT.file),
        fingerprint=identity_of_teacher,
        making=making_of_teacher("untrained.json", "manifold.training.untrained"),
    message:
        "Initialising the teacher of {wildcards.pair}"
    shell:
        "python -m manifold initialise-teacher --experiment {params.experiment:q} --pair {wildcards.pair:q}"
        " 2>&1 | tee {log:q}"


rule evaluate_teacher:
    """Measure a pair's teacher on the split that the students are measured on."""
    input:
        lambda wildcards: EXPERIMENT.teacher_weights(wildcards.pair),
    output:
        f"{RESULTS}/teachers/{{pair}}/evaluation.json",
    log:
        f"{RESULTS}/logs/evaluate-teacher-{{pair}}.txt",
    conda:
        "../envs/suite.yaml"
    threads: cpus(MACHINE, processes=1)
    resources:
        **resources(MACHINE, processes=1),
    params:
        experiment=str(EXPERIMENT.file),
        fingerprint=identity_of_teacher,
        making=making_of_teacher("evaluation.json", "manifold.training.teacher"),
    message:
        "Measuring the teacher of {wildcards.pair}"
    shell:
        "python -m manifold start --one --experiment {params.experiment:q} -- -m manifold measure-teacher --experiment {params.experiment:q} --pair {wildcards.pair:q}"
        " 2>&1 | tee {log:q}"


# A cohort is one job, but for seeds that it is cut for: its methods share the batches and the
# teacher's passes. When one of its cells has to be trained again, the others are brought back
# (manifold/training/finished.py).
with ending_the_process():  # a record may be damaged, or a method no Python
    JOBS = {
        training: [
            job for methods in cohorts for job in EXPERIMENT.jobs(training, methods)
        ]
        for training, cohorts in EXPERIMENT.trainings().items()
    }

named = Counter()  # pair deit with recipe cait-A, and deit-cait with A, are one name
for (pair, recipe, epochs), jobs in JOBS.items():
    of_training = re.sub(r"\W", "_", f"train_{pair}_{recipe}_{epochs}")
    for methods, seeds in jobs:
        number = named[of_training]
        named[of_training] += 1
        COMPUTES.add(name := f"{of_training}_{number}")

        rule:
            name:
                name
            input:
                EXPERIMENT.teacher_weights(pair),
            output:
                expand(
                    CELL,
                    pair=pair,
                    recipe=recipe,
                    epochs=epochs,
                    method=methods,
                    file=CELL_FILES,
                    allow_missing=True,
                ),
            log:
                f"{RESULTS}/logs/cohort-{number}-{pair}-{recipe}-{epochs}-seed-{{seed}}.txt",
            benchmark:
                f"{RESULTS}/benchmarks/cohort-{number}-{pair}-{recipe}-{epochs}-seed-{{seed}}.tsv"
            wildcard_constraints:
                seed=seeds,
            priority: len(methods)  # long jobs first: none is left to run alone at the end
            conda:
                "../envs/suite.yaml"
            threads: cpus(MACHINE)
            resources:
                **resources(MACHINE),
            params:
                experiment=str(EXPERIMENT.file),
                pair=pair,
                recipe=recipe,
                epochs=epochs,
                methods=uncompared(methods),
                making=making_of_cohort(pair, recipe, epochs, methods),
            message:
                "Training seed {wildcards.seed} of {params.methods} ({params.pair}, recipe"
                " {params.recipe}, {params.epochs} epoch(s)); log: {log}"
            shell:
                "python -m manifold start --experiment {params.experiment:q} -- -m manifold train --experiment {params.experiment:q}"
                " --pair {params.pair:q} --recipe {params.recipe:q}"
                " --epochs {params.epochs} --seed {wildcards.seed}"
                " --methods {params.methods:q} 2>&1 | tee {log:q}"
