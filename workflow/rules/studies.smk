"""The rules of every study, from what it declares; its target stands in the Snakefile."""

STUDIES = EXPERIMENT.studies

with ending_the_process():
    BEHIND_TABLES = {
        name: list(map(str, study.cells() + study.results() + study.reads()))
        for name, study in STUDIES.items()
    }


for study in STUDIES.values():
    for job in study.jobs():
        COMPUTES.add(name := re.sub(r"\W", "_", f"{study.name}_{job.name}"))

        rule:
            name:
                name
            input:
                inputs_of(job),
            output:
                outputs_of(job),
            log:
                log_of(study, job),
            benchmark:
                benchmark_of(study, job)
            priority: job.priority
            localrule: job.is_local
            conda:
                "../envs/suite.yaml"
            threads: threads_of(job)
            resources:
                **resources_of(job),
            params:
                experiment=str(EXPERIMENT.file),
                study=study.name,
                job=job.name,
                words=words_of,
                fingerprint=identity_of_job(job),
                making=making_of_job(job),
            message:
                f"{job.message}; log: {{log}}"
            shell:
                COMMANDS[job.processes]


for study in STUDIES.values():

    rule:
        name:
            study.name
        input:
            BEHIND_TABLES[study.name],
            expand(
                f"{RESULTS}/teachers/{{pair}}/evaluation.json", pair=study.teachers()
            ),
        output:
            [in_report(study, path) for path in study.files()],
        log:
            f"{RESULTS}/logs/{study.name}.txt",
        localrule: True
        conda:
            "../envs/suite.yaml"
        params:
            experiment=str(EXPERIMENT.file),
            study=study.name,
            question=study.question,
            scale=EXPERIMENT.name,
            fingerprint=identity_of_table(study),
        message:
            f"Writing {RESULTS}/{study.name}.*"
        shell:
            "python -m benchmarks {params.study:q} --experiment {params.experiment:q}"
            " 2>&1 | tee {log:q}"


EVIDENCE = [study for study in STUDIES.values() if study.is_evidence]


rule figures:
    """Every figure of every study, in both formats."""
    input:
        [
            str(path)
            for study in EVIDENCE
            for path in study.files()
            if path.suffix in FIGURES
        ],
    localrule: True


rule all:
    """Every study that answers a question; choices and rehearsals are asked for by name."""
    input:
        [path for study in EVIDENCE for path in needed_by(study)],
    localrule: True


rule report:
    """One page of every study that has been made, after those of this run; it makes none itself."""
    input:
        files_of_this_run,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.txt",
    localrule: True
    conda:
        "../envs/suite.yaml"
    params:
        experiment=str(EXPERIMENT.file),
        files=files_that_are_here,
    message:
        "Writing {output}"
    shell:
        "python -m benchmarks report --experiment {params.experiment:q} 2>&1 | tee {log:q}"


rule check:
    """Look at what the studies of `all` need, and train nothing."""
    log:
        f"{RESULTS}/logs/check.txt",
    localrule: True
    conda:
        "../envs/suite.yaml"
    params:
        experiment=str(EXPERIMENT.file),
        record=str(PREFLIGHT),
    message:
        "Checking what the studies of this scale need"
    shell:
        "python -m benchmarks preflight --experiment {params.experiment:q}"
        " --output {params.record:q} 2>&1 | tee {log:q}"
