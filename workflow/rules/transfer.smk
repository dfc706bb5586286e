TRANSFER = multiext(f"{RESULTS}/transfer", *FORMATS, "_seeds.csv")


TRANSFER_CELLS = cells(EXPERIMENT.transfer_cells()) if EXPERIMENT.transfer else []


if EXPERIMENT.transfer is not None:
    PROBES = transfer_files(
        ["linear-probe", "k-nn"], ["features.safetensors", "probes.json"]
    )
    FINE_TUNED = transfer_files(
        ["fine-tuning"], [f"fine-tuning/{name}" for name in CELL_FILES]
    )

    rule prepare_transfer:
        """Check the data sets of the transfer study; write the students that know nothing."""
        output:
            f"{RESULTS}/transfer/data.json",
            expand(
                f"{RESULTS}/transfer/seed-{{seed}}/untrained.{{suffix}}",
                seed=EXPERIMENT.seeds,
                suffix=["safetensors", "json"],
            ),
        log:
            f"{RESULTS}/logs/prepare-transfer.txt",
        priority: 100  # errors in the data come before the training of students
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
            fingerprint=fingerprint(
                [
                    EXPERIMENT.data,
                    EXPERIMENT.pairs[EXPERIMENT.transfer.pair].student,
                    EXPERIMENT.transfer,
                ]
            ),
        message:
            "Checking the data sets of the transfer study"
        shell:
            "python -m benchmarks.transfer.prepare --config {params.words:q} 2>&1 | tee {log:q}"

    if PROBES:

        rule probe_students:
            """Linear probe and k-NN on the frozen features of a seed's students."""
            input:
                f"{RESULTS}/transfer/data.json",
                transfer_students(),
            output:
                update(PROBES),
            log:
                f"{RESULTS}/logs/probes-seed-{{seed}}.txt",
            conda:
                "../../environment.yml"
            threads: cpus(MACHINE, processes=1)
            resources:
                **resources(MACHINE, processes=1),
            params:
                words=WORDS,
                launch=launcher(MACHINE, processes=1),
                fingerprint=lambda wildcards: fingerprint(
                    [
                        EXPERIMENT.probe_identity(name, int(wildcards.seed))
                        for name in EXPERIMENT.transfer.data
                    ]
                ),
            message:
                "Probing the students of seed {wildcards.seed}; log: {log}"
            shell:
                "{params.launch} -m benchmarks.transfer.probes --config {params.words:q}"
                " --seed {wildcards.seed} 2>&1 | tee {log:q}"

    if FINE_TUNED:

        rule fine_tune_students:
            """Fine-tune a seed's students with the loop that trained them."""
            input:
                f"{RESULTS}/transfer/data.json",
                transfer_students(),
            output:
                update(FINE_TUNED),
            log:
                f"{RESULTS}/logs/fine-tuning-seed-{{seed}}.txt",
            conda:
                "../../environment.yml"
            threads: cpus(MACHINE)
            resources:
                **resources(MACHINE),
            params:
                words=WORDS,
                launch=LAUNCH,
                fingerprint=lambda wildcards: fingerprint(
                    [
                        EXPERIMENT.fine_tuning_identity(name, int(wildcards.seed))
                        for name in EXPERIMENT.transfer.data
                    ]
                ),
            message:
                "Fine-tuning the students of seed {wildcards.seed}; log: {log}"
            shell:
                "{params.launch} -m benchmarks.transfer.fine_tuning --config {params.words:q}"
                " --seed {wildcards.seed} 2>&1 | tee {log:q}"

    rule transfer:
        """Every student on other data sets, with gains over the baseline and intervals."""
        input:
            TRANSFER_CELLS,
            expand(PROBES + FINE_TUNED, seed=EXPERIMENT.seeds),
        output:
            TRANSFER,
        log:
            f"{RESULTS}/logs/transfer.txt",
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
        message:
            f"Writing {RESULTS}/transfer.*"
        shell:
            "python -m benchmarks.transfer.table --config {params.words:q} 2>&1 | tee {log:q}"
