"""The commands of the studies.

``python -m benchmarks table1 --config scale=mini`` writes a study's tables and figures from what
has been made; ``python -m benchmarks transfer probes data=digits seed=0`` does one of its jobs.
``preflight``, ``publish``, ``records``, ``merge``, ``report``, ``compare``, ``watch``,
``verify``, ``describe-methods``, ``evaluate`` and ``voc-to-coco`` are of no study.
"""

from manifold.__main__ import call, name_of_command

COMMANDS = {
    "preflight": "benchmarks.evidence.preflight",
    "publish": "benchmarks.evidence.publish",
    "records": "benchmarks.evidence.records",
    "merge": "benchmarks.evidence.merge",
    "report": "benchmarks.evidence.report",
    "compare": "benchmarks.evidence.compare",
    "watch": "benchmarks.evidence.watch",
    "verify": "benchmarks.evidence.verify",
    "describe-methods": "benchmarks.evidence.methods_page",
    "evaluate": "benchmarks.evaluate",
    "voc-to-coco": "benchmarks.detection.voc",
}
STUDY = "benchmarks.evidence.make"


def main() -> None:
    name = name_of_command(
        f"usage: python -m benchmarks {{{','.join(COMMANDS)},STUDY}} …\n\n{__doc__}"
    )
    call("benchmarks", name, COMMANDS.get(name, STUDY))


if __name__ == "__main__":
    main()
