"""Distilling vision transformers: the targets. `snakemake --cores all reproduce_table1`.

Everything below the configuration follows from what the studies of the scale declare.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

# The folder of this file, also where it is a module of another workflow.
HERE = workflow.current_basedir.get_path_or_uri(secret_free=True)
sys.path.insert(0, HERE)
# A job is `python -m …`, which finds a study or method of one's own in its working folder.
sys.path.append(os.getcwd())

from manifold.errors import MARK, ending_the_process, full_disk, last_error
from manifold.settings import read_yaml, refuse_repeated, resolve


configfile: os.path.join(HERE, "config", "config.yaml")


with ending_the_process():
    refuse_repeated(sys.argv)
    # Snakemake's reader keeps the last of two keys of one name.
    for file in workflow.overwrite_configfiles:
        read_yaml(Path(file))
    EXPERIMENT = resolve(config)

RESULTS = str(EXPERIMENT.directory)


include: "workflow/rules/common.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/studies.smk"


# Here, since Snakemake takes no default target from a file that is included.
for study in STUDIES.values():

    rule:
        name:
            study.target
        default_target: study.target == "reproduce_table1"
        input:
            needed_by(study),
        localrule: True
