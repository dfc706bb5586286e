"""What the rules share: how a job is started, and what plans it again."""

import ast

import psutil  # which Snakemake brings
from benchmarks.evidence.asked import write_asked
from benchmarks.evidence.checked import asked_studies, unchecked
from benchmarks.evidence.study import FIGURES, typed
from benchmarks.evidence.times import TIMES, Started, add_run
from manifold.files import sha256
from manifold.settings import CELL_FILES, ROOT, fingerprint, write_experiment
from manifold.settings.data_files import files_digest
from manifold.settings.files import let_jobs_run_these_sources
from manifold.settings.sources import job_hash
from manifold.settings.stale import (
    is_cell_made_anew,
    is_job_made_anew,
    is_made_by_old_code,
    is_teacher_made_anew,
)
from manifold.training.finished import forget_all, keep_all
from manifold.training.launch import cpus, resources
from manifold.training.parent import tell_jobs
from snakemake.io import IOFile

MACHINE = EXPERIMENT.machine

let_jobs_run_these_sources()
tell_jobs()
if len(workflow.modifier_stack) > 1:  # a module, whose hooks Snakemake does not call
    write_experiment(EXPERIMENT)

# What of other files was made is made anew.
DATA_FILES = files_digest(EXPERIMENT.data, EXPERIMENT.results)

CELL = f"{RESULTS}/cells/{{pair}}/{{recipe}}/{{epochs}}-epochs/{{method}}/seed-{{seed}}/{{file}}"


# The rules that compute; what they need is checked before the first of them starts.
COMPUTES = {"train_teacher", "evaluate_teacher"}


def is_forced():
    """Whether --force, --forceall or --forcerun asks for what is there to be made again."""
    asked = workflow.dag_settings
    return bool(asked.forcetargets or asked.forceall or asked.forcerun)


PREFLIGHT = EXPERIMENT.directory / "preflight.json"


def check_before_compute():
    """Look once at what the studies that are asked for need: errors come before compute.

    No rule, since whatever depended on one that runs again would run again too.
    """
    outputs = [path for job in workflow.dag.jobs for path in job.output]
    studies = unchecked(EXPERIMENT, asked_studies(EXPERIMENT, outputs), PREFLIGHT)
    if not studies:
        return
    check = [sys.executable, "-m", "benchmarks", "preflight"]
    words = ["--experiment", EXPERIMENT.file, "--output", PREFLIGHT, "--studies"]
    if subprocess.run([*check, *words, *studies]).returncode:
        sys.exit(1)  # and no more is said: the last words are the check's


STARTED = []  # the run, where it computes


def this_run():
    """The run as it is planned, for the file of what runs took."""
    targets = workflow.dag_settings.targets or {workflow.default_target}
    return Started(
        targets=tuple(sorted(targets)),
        cores=workflow.resource_settings.cores,
        jobs=len(list(workflow.dag.needrun_jobs())),
        jobs_in_all=len(list(workflow.dag.jobs)),
        at=psutil.Process().create_time(),
    )


def write_what_is_asked_for():
    """Write what the run is asked for, where whoever watches it sees it."""
    jobs = list(workflow.dag.jobs)
    write_asked(
        EXPERIMENT.directory,
        targets=STARTED[-1].targets,
        paths=[path for job in jobs for path in (*job.input, *job.output)],
        jobs={
            log: job.output for job in workflow.dag.needrun_jobs() for log in job.log
        },
    )


wildcard_constraints:
    pair=r"[^/]+",
    recipe=r"[^/]+",
    method=r"[^/]+",
    epochs=r"\d+",
    seed=r"\d+",


MAKING = "making "  # before its number


def making_of(paths, is_made_anew):
    """How often outputs were made anew because of what made them; once more where asked.

    Snakemake compares it with what it recorded of each output, and plans the job where they
    differ. The number is of the outputs, and not of code or data, so what is kept of older code
    plans nothing, nor does what else a job makes: a smaller cohort, or one that is cut otherwise.
    Where outputs of different numbers come to be of one job, it is planned once, and finds all
    complete.
    """
    return f"{MAKING}{max(map(recorded_making, paths), default=0) + is_made_anew}"


def recorded_making(path):
    """The number that Snakemake recorded with an output."""
    params = workflow.persistence.params(IOFile(str(path))) or ()
    for param in map(ast.literal_eval, params):
        if str(param).startswith(MAKING):
            return int(param.removeprefix(MAKING))
    return 0


def making_of_cohort(pair, recipe, epochs, methods):
    """A params function: the number of a cohort of these methods."""

    @ending_the_process()
    def number(wildcards):
        seed = int(wildcards.seed)
        cells = [(pair, recipe, epochs, method, seed) for method in methods]
        # Of every cell, since a method that is not Python is told here.
        anew = [is_cell_made_anew(EXPERIMENT, cell, DATA_FILES) for cell in cells]
        files = [EXPERIMENT.cell_directory(*cell) / CELL_FILES[0] for cell in cells]
        return making_of(files, any(anew))

    return number


def making_of_teacher(record, maker=None, data=DATA_FILES):
    """A params function: the number of what is made of a pair's teacher.

    Args:
        record: the file that says of which data it was made.
        maker: the module that makes it, where no training does and its code is followed.
        data: the digest of their files; None where no data are read.
    """

    @ending_the_process()
    def number(wildcards):
        pair = wildcards.pair
        path = EXPERIMENT.teacher_directory(pair) / record
        anew = is_teacher_made_anew(EXPERIMENT, pair, record, data)
        if maker is not None:
            anew |= is_made_by_old_code(EXPERIMENT, job_hash(maker), [path])
        return making_of([path], anew)

    return number


def identity_of_teacher(wildcards):
    """What shapes the weights of a pair's teacher, or what is found of them."""
    with ending_the_process():
        return fingerprint(EXPERIMENT.teacher_identity(wildcards.pair))


def uncompared(value):
    """A params function that Snakemake leaves out of what plans a job again, as it derives."""
    return lambda wildcards, output: value


# How the jobs of a study are started, by what they ask for.
STARTS = {
    "as trainings": "python -m manifold start --experiment {params.experiment:q} --",
    "one": "python -m manifold start --one --experiment {params.experiment:q} --",
    "none on a GPU": "python",
}
COMMAND = (
    "{start} -m benchmarks {{params.study:q}} {{params.job:q}} {{params.words:q}}"
    " --experiment {{params.experiment:q}} 2>&1 | tee {{log:q}}"
)
COMMANDS = {kind: COMMAND.format(start=start) for kind, start in STARTS.items()}


def threads_of(job):
    return (
        job.threads
        or {
            "as trainings": cpus(MACHINE),
            "one": cpus(MACHINE, processes=1),
            "none on a GPU": MACHINE.threads,
        }[job.processes]
    )


def resources_of(job):
    return {
        "as trainings": resources(MACHINE),
        "one": resources(MACHINE, processes=1),
        "none on a GPU": {},
    }[job.processes]


def inputs_of(job):
    @ending_the_process()
    def paths(wildcards):
        return list(map(str, job.inputs(**typed(dict(wildcards.items())))))

    return paths


def outputs_at(job, wildcards):
    words = dict(wildcards.items())
    return [EXPERIMENT.directory / pattern.format(**words) for pattern in job.outputs]


def identity_of_job(job):
    """A params function: what shapes a job's outputs beside its inputs and the code."""

    @ending_the_process()
    def hashed(wildcards):
        return fingerprint(job.identity(**typed(dict(wildcards.items()))))

    return hashed


def making_of_job(job):
    """A params function: the number of a job's outputs, as ``making_of`` counts."""

    @ending_the_process()
    def number(wildcards):
        outputs = outputs_at(job, wildcards)
        data = job.data_files(**typed(dict(wildcards.items())))
        maker = module_of(job)
        return making_of(
            outputs, is_job_made_anew(EXPERIMENT, maker, job.method, outputs, data)
        )

    return number


def module_of(job):
    return job.run.partition(":")[0]


def identity_of_table(study):
    """A params function: what shapes a study's table beside its inputs, and the code behind it."""

    @ending_the_process()
    def hashed(wildcards):
        return fingerprint([study.identity(), job_hash(type(study).__module__)])

    return hashed


def words_of(wildcards):
    return [f"{name}={value}" for name, value in wildcards.items()]


def outputs_of(job):
    paths = [f"{RESULTS}/{pattern}" for pattern in job.outputs]
    return [directory(path) for path in paths] if job.is_folder else paths


def log_of(study, job):
    return f"{RESULTS}/logs/{name_of(study, job)}.txt"


def benchmark_of(study, job):
    return f"{RESULTS}/benchmarks/{name_of(study, job)}.tsv"


def name_of(study, job):
    names = dict.fromkeys(re.findall(r"{(\w+)}", job.outputs[0]))
    marks = "".join(f"-{{{name}}}" for name in names)
    return f"{study.name}-{job.name}{marks}"


KINDS = {
    ".md": "table",
    ".csv": "rows",
    ".tex": "LaTeX",
    ".png": "figure",
    ".pdf": "figure",
    ".svg": "figure",
}


def in_report(study, path):
    """A file of a study with its place in Snakemake's report."""
    labels = {"file": path.name, "kind": KINDS[path.suffix]}
    return report(
        str(path),
        caption="../report/study.rst",
        category=study.title,
        labels=labels,
    )


def needed_by(study):
    """What a study shows, asked for by name, so that a cell that was deleted is made again."""
    return list(map(str, study.files() + study.cells() + study.results()))


def files_of_this_run(_):
    """What the run's other targets make of studies: the page comes after it, and asks for none.

    What is there is no input: a rule that made it would be planned again with the page.
    """
    asked = set(workflow.dag_settings.targets)
    whole = asked & {"all", "figures"}
    return [
        str(path)
        for study in STUDIES.values()
        if (whole and study.is_evidence)
        or not asked.isdisjoint({study.name, study.target, *map(str, study.files())})
        for path in study.files()
    ]


def files_that_are_here(_):
    """Of every study, as they stand: other ones plan the page again."""
    paths = [path for study in STUDIES.values() for path in study.files()]
    return fingerprint({str(path): sha256(path) for path in paths if path.is_file()})


def last_words(jobs):
    """The errors of ours that failed jobs ended with, from their logs, in the order they came."""
    logs = {Path(path) for job in jobs for path in job.log if Path(path).is_file()}
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(logs, key=os.path.getmtime)
    ]
    return "\n".join(dict.fromkeys(filter(None, map(last_error, texts))))


onstart:
    with ending_the_process():
        write_experiment(EXPERIMENT)
        (
            forget_all(EXPERIMENT.directory)
            if is_forced()
            else keep_all(EXPERIMENT.directory)
        )
    computes = any(job.rule.name in COMPUTES for job in workflow.dag.needrun_jobs())
    if computes and not workflow.touch:
        STARTED.append(this_run())
        check_before_compute()
        write_what_is_asked_for()


onsuccess:
    forget_all(EXPERIMENT.directory)
    for started in STARTED:
        add_run(EXPERIMENT.directory / TIMES, started)


onerror:
    # The run ends with these, not with a summary that sends one to look for them.
    words = [last_words(workflow.scheduler.failed)]
    if full := full_disk(EXPERIMENT.directory):
        words.append(f"{MARK}{full}")
    if any(words):
        sys.exit("\n".join(filter(None, words)))
