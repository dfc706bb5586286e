"""Time of a step of every method by itself, and of cohorts that share the teacher's pass."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cost import StepShapes
from benchmarks.cost.losses import timed
from benchmarks.cost.memory import peak_bytes
from benchmarks.cost.work import operations, seconds_of_a_product, seconds_of_operators
from manifold.distiller import FrozenTeacher
from manifold.files import write_text
from manifold.models import create_model
from manifold.seeds import derive
from manifold.settings import Experiment, read_experiment, write_experiment
from manifold.training.cells import Cell, student_model
from manifold.training.cohort import PRECISIONS, Cohort, Member
from manifold.training.description import describe_environment
from manifold.training.progress import progress
from manifold.training.runs import Setting, build_distiller, freeze


def run(experiment: Experiment) -> None:
    """Measure every method and cohort, and write what was found."""
    study = experiment.studies["cost"]
    steps, device = study.settings.steps, torch.device(experiment.machine.device)
    members, teacher = build(experiment, steps, device)
    found = measure(experiment, steps, members, teacher)
    found |= look_into(experiment, steps, members, teacher)
    found["peaks"] = peaks(experiment, steps, device)
    found["held_bytes"] = {member.name: held_bytes(member) for member in members}
    content = {"environment": describe_environment(device), **found}
    write_text(study.measured_file("steps"), json.dumps(content, indent=2) + "\n")


def build(
    experiment: Experiment,
    steps: StepShapes,
    device: torch.device,
    methods: list[str] | None = None,
) -> tuple[list[Member], FrozenTeacher]:
    """A member for each method, by default all, below one teacher of random weights."""
    recipe = experiment.recipes[steps.recipe]
    setting = Setting(
        experiment=experiment,
        pair=experiment.pairs[steps.pair],
        pair_name=steps.pair,
        recipe=recipe.replaced(batch_size=steps.images, shards=1),
        recipe_name=steps.recipe,
        epochs=1,
        seed=experiment.seeds[0],
        teacher_weights=None,
        state=Path("unused"),
        device=device,
    )
    torch.manual_seed(derive(setting.seed, "cost"))
    network = create_model(setting.pair.teacher.model, setting.image_shape, steps.classes)
    teacher = freeze(setting, network)
    members = []
    for name in steps.methods if methods is None else methods:
        definition = experiment.method_definitions[name]
        student = student_model(setting.pair, steps.pair, name, definition)
        cell = Cell(name, definition, student, Path("unused"), {})
        members.append(
            Member(
                name,
                build_distiller(setting, cell, teacher, steps.classes),
                setting.recipe,
                seed=setting.seed,
                epochs=1,
                steps_per_epoch=(1 + steps.rounds) * (1 + len(steps.members)) + 2,
                fused_optimizer=experiment.machine.fused_optimizer,
            )
        )
    return members, teacher


def measure(
    experiment: Experiment, steps: StepShapes, members: list[Member], teacher: FrozenTeacher
) -> dict:
    """Seconds of the teacher's pass, of each method's step by itself, and of each cohort's.

    In each round every method takes a step alone, the teacher's pass in it, and then every cohort
    takes one, and two matrices are multiplied; a first round is thrown away.
    """
    alone: dict[str, list[float]] = {member.name: [] for member in members}
    passes: list[float] = []
    teachers = _teachers(experiment, steps, teacher)
    precise: dict[str, list[float]] = {precision: [] for precision in teachers}
    cohorts: dict[int, list[float]] = {size: [] for size in steps.members}
    products: list[float] = []
    shown = progress(what="steps", unit="round", total=1 + steps.rounds)
    step = 0
    for number in range(1 + steps.rounds):
        images, targets = _batch(experiment, steps, number, steps.images)
        for member in members:
            cohort = Cohort([member], teacher)
            taken = _seconds(cohort, images, targets, step)
            if number:
                alone[member.name].append(taken)
                if member.distiller.uses_teacher:
                    passes.append(cohort.teacher_seconds)
        for size in steps.members:
            step += 1
            taken = _seconds(Cohort(members[:size], teacher), images, targets, step)
            if number:
                cohorts[size].append(taken)
        for precision, alone_in_it in teachers.items():
            taken = _seconds_of_a_pass(alone_in_it, images)
            if number:
                precise[precision].append(taken)
        taken = seconds_of_a_product(steps.product, images.device)
        if number:
            products.append(taken)
        step += 1
        shown.update()
    shown.close()
    return {
        "alone": alone,
        "teacher": passes,
        "teacher_precisions": precise,
        "uses_teacher": [m.name for m in members if m.distiller.uses_teacher],
        "cohorts": [{"members": size, "seconds": taken} for size, taken in cohorts.items()],
        "products": products,
    }


def look_into(
    experiment: Experiment, steps: StepShapes, members: list[Member], teacher: FrozenTeacher
) -> dict:
    """Operations of each method's step and of the teacher's pass, and a cohort's operators.

    After ``measure``: each member takes one step more, the profiled ones two.
    """
    step = (1 + steps.rounds) * (1 + len(steps.members))
    images, targets = _batch(experiment, steps, step, steps.images)

    def taken_by(company: list[Member], number: int) -> Callable[[], None]:
        unseen = images.clone()  # which the teacher has not been asked with
        return lambda: Cohort(company, teacher).step(unseen, targets, number)

    profiled = taken_by(members[: steps.profiled], step + 1)
    return {
        "operations": {member.name: operations(taken_by([member], step)) for member in members},
        "operations_of_teacher": operations(lambda: teacher(images.clone())),
        "operators": seconds_of_operators(profiled, images.device),
    }


def _batch(
    experiment: Experiment, steps: StepShapes, number: int, count: int
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(derive(0, "cost", number))
    shape = experiment.data.image_shape
    drawn = torch.randn(count, *shape, generator=generator)
    targets = torch.randn(count, steps.classes, generator=generator).softmax(dim=1)
    device = torch.device(experiment.machine.device)
    return drawn.to(device), targets.to(device)


def _seconds(cohort: Cohort, images: Tensor, targets: Tensor, step: int) -> float:
    unseen = images.clone()  # which the teacher has not been asked with
    return timed(lambda: cohort.step(unseen, targets, step), images.device)


def _teachers(
    experiment: Experiment, steps: StepShapes, teacher: FrozenTeacher
) -> dict[str, FrozenTeacher]:
    """Such teachers with weights in each precision, which give the tokens that this one gives."""
    network, shape = experiment.pairs[steps.pair].teacher.model, experiment.data.image_shape
    device, found = next(teacher.parameters()).device, {}
    for precision in steps.teacher_precisions:
        model = create_model(network, shape, steps.classes).to(device, PRECISIONS[precision])
        found[precision] = FrozenTeacher(model, teacher.most_tokens)
        found[precision].watch(sorted(teacher.layers))
    return found


def _seconds_of_a_pass(teacher: FrozenTeacher, images: Tensor) -> float:
    cast = images.to(next(teacher.model.parameters()).dtype)
    return timed(lambda: teacher(cast), images.device)


def peaks(experiment: Experiment, steps: StepShapes, device: torch.device) -> list[dict]:
    """Peak memory of two steps of each method by itself, and of each cohort, networks and all."""
    companies = [[name] for name in steps.methods]
    companies += [steps.methods[:size] for size in steps.members if size > 1]
    file, found = write_experiment(experiment), []
    for company in progress(companies, what="memory", unit="cohort"):
        peak = peak_bytes(two_steps, file, company, device, device=device)
        found.append({"methods": company, "peak_bytes": peak})
    return found


def held_bytes(member: Member) -> int:
    """What a member keeps between its steps: weights, their average, the optimizer's state."""
    network = member.distiller
    states = [value for state in member.optimizer.state.values() for value in state.values()]
    tensors = [*network.parameters(), *network.buffers(), *filter(torch.is_tensor, states)]
    return sum(tensor.nbytes for tensor in tensors)


def two_steps(file: Path, methods: list[str], device: torch.device) -> Iterator[None]:
    """The work whose memory is measured."""
    yield
    experiment = read_experiment(file)
    steps = experiment.studies["cost"].settings.steps
    cohort = Cohort(*build(experiment, steps, device, methods))
    for number in range(2):
        cohort.step(*_batch(experiment, steps, number, steps.memory_images), number)
