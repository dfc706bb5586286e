DETECTION = multiext(f"{RESULTS}/detection", *FORMATS, "_seeds.csv")


DETECTION_DATA = multiext(
    f"{RESULTS}/detection/data/", "train.json", "test.json", "data.json"
)


DETECTOR = (
    str(EXPERIMENT.detector_directory("{detector}", "{method}", "{seed}") / "{file}")
    if EXPERIMENT.detection
    else ""
)


DETECTION_CELLS = (
    expand(
        DETECTOR,
        detector=EXPERIMENT.detection.detectors,
        method=EXPERIMENT.detection_backbones(),
        seed=EXPERIMENT.seeds,
        file=DETECTOR_FILES,
    )
    if EXPERIMENT.detection
    else []
)


# Test images with the detections drawn on them; a scale may want none.
PICTURES = (
    multiext(f"{RESULTS}/detection_pictures", ".png", ".pdf")
    if EXPERIMENT.detection and EXPERIMENT.detection.pictures
    else []
)


REHEARSAL_DETECTION = (
    multiext(f"{RESULTS}/rehearsal_detection", ".md", ".csv")
    if EXPERIMENT.detection
    else []
)


if EXPERIMENT.detection is not None:

    rule detection_data:
        """Compose scenes, or check the annotations of a folder, before any detector is trained."""
        input:
            preflight=rules.preflight.output,
        output:
            DETECTION_DATA,
        log:
            f"{RESULTS}/logs/detection-data.txt",
        conda:
            "../../environment.yml"
        threads: EXPERIMENT.machine.threads
        params:
            words=WORDS,
            fingerprint=fingerprint(EXPERIMENT.detection.data),
        message:
            "Preparing the images of the detectors"
        shell:
            "python -m benchmarks.detection.prepare --config {params.words:q} 2>&1 | tee {log:q}"

    # One job trains several backbones one after another; `update` keeps those that are there.
    for number, methods in enumerate(EXPERIMENT.detection_jobs()):

        rule:
            name:
                f"train_detectors_{number}"
            input:
                data=rules.detection_data.output,
                students=students_of(methods),
            output:
                update(
                    expand(
                        DETECTOR,
                        method=methods,
                        file=DETECTOR_FILES,
                        allow_missing=True,
                    )
                ),
            log:
                f"{RESULTS}/logs/detectors-{number}-{{detector}}-seed-{{seed}}.txt",
            conda:
                "../../environment.yml"
            threads: cpus(MACHINE)
            resources:
                **resources(MACHINE),
            params:
                words=WORDS,
                launch=LAUNCH,
                methods=methods,
                fingerprint=settings_of,
            message:
                "Training {wildcards.detector} on {params.methods}, seed {wildcards.seed};"
                " log: {log}"
            shell:
                "{params.launch} -m benchmarks.detection.train --config {params.words:q}"
                " --detector {wildcards.detector:q} --seed {wildcards.seed}"
                " --methods {params.methods:q} 2>&1 | tee {log:q}"

    rule detection:
        """Box and mask AP of every detector on every backbone, with paired gains."""
        input:
            DETECTION_CELLS,
            DETECTION_DATA,
        output:
            DETECTION,
            PICTURES,
        log:
            f"{RESULTS}/logs/detection.txt",
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
        message:
            f"Writing {RESULTS}/detection.*"
        shell:
            "python -m benchmarks.detection.table --config {params.words:q} 2>&1 | tee {log:q}"

    rule rehearsal_folder:
        """Make a small folder of images and annotations in COCO's format."""
        output:
            directory(f"{RESULTS}/rehearsal/detection/coco"),
        log:
            f"{RESULTS}/logs/rehearsal-folder.txt",
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
            fingerprint=fingerprint(EXPERIMENT.detection.rehearsal),
        message:
            "Making the images and annotations of detection's rehearsal"
        shell:
            "python -m benchmarks.detection.rehearse --config {params.words:q} --data"
            " 2>&1 | tee {log:q}"

    rule rehearse_detector:
        """One step of a detector at full shapes, tested; parameters and FLOPs."""
        input:
            rules.rehearsal_folder.output,
        output:
            f"{RESULTS}/rehearsal/detection/{{pair}}/{{detector}}.json",
        log:
            f"{RESULTS}/logs/rehearsal-{{pair}}-{{detector}}.txt",
        conda:
            "../../environment.yml"
        threads: EXPERIMENT.detection.rehearsal.threads
        params:
            words=WORDS,
            fingerprint=settings_of,
        message:
            "Rehearsing {wildcards.detector} on the student of {wildcards.pair}"
        shell:
            "python -m benchmarks.detection.rehearse --config {params.words:q}"
            " --pair {wildcards.pair:q} --detector {wildcards.detector:q} --threads {threads}"
            " 2>&1 | tee {log:q}"

    rule rehearsal_detection:
        """Parameters and FLOPs next to the published ones, time, memory, projected GPU-hours."""
        input:
            expand(
                rules.rehearse_detector.output,
                pair=EXPERIMENT.rehearsed_backbones(),
                detector=EXPERIMENT.detection.detectors,
            ),
            EXPERIMENT.networks,
            EXPERIMENT.detection.rehearsal.published,
        output:
            REHEARSAL_DETECTION,
        log:
            f"{RESULTS}/logs/rehearsal-detection.txt",
        conda:
            "../../environment.yml"
        params:
            words=WORDS,
        message:
            f"Writing {RESULTS}/rehearsal_detection.md"
        shell:
            "python -m benchmarks.detection.rehearse --config {params.words:q} --collect"
            " 2>&1 | tee {log:q}"
