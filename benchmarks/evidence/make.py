"""Write a study's tables and figures from what has been made, or do one of its jobs."""

import sys

from manifold.errors import UserError
from manifold.settings import suggest
from manifold.training import command


def main() -> None:
    name = sys.argv[0].split()[-1]
    parser = command.parser(f"benchmarks {name}", __doc__)
    parser.add_argument("job", nargs="?", help="default: write the tables and figures")
    parser.add_argument("wildcards", nargs="*", metavar="NAME=VALUE", help="which of the job's")
    options = parser.parse_args()
    experiment = command.experiment(options)
    if name not in experiment.studies:
        known = list(experiment.studies)
        raise UserError(
            f"{name!r} is no study of scale {experiment.scale!r}.{suggest(name, known)} Known: "
            f"{', '.join(known)}"
        )
    study = experiment.studies[name]
    if options.job is None:
        study.write()
    else:
        study.do(options.job, options.wildcards)
