"""Time and peak memory of each form of the loss against the batch: forward and backward."""

import json
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.cost import LossShapes
from benchmarks.cost.forms import FORMS
from benchmarks.cost.memory import peak_bytes
from manifold.files import write_text
from manifold.seeds import derive
from manifold.settings import Experiment
from manifold.training.description import describe_environment
from manifold.training.progress import progress


def run(experiment: Experiment) -> None:
    """Measure every form at every batch, and write what was found."""
    study = experiment.studies["cost"]
    shapes, device = study.settings.losses, torch.device(experiment.machine.device)
    sizes = [(batch, forms_at(shapes, batch)) for batch in shapes.batches]
    shown = progress(what="losses", unit="measurement", total=sum(len(forms) for _, forms in sizes))
    found = []
    for batch, forms in sizes:
        seconds = interleaved(shapes, batch, forms, device)
        for form in forms:
            peak = peak_bytes(one_gradient, shapes, batch, form, device, device=device)
            found.append(
                {"form": form, "batch": batch, "seconds": seconds[form], "peak_bytes": peak}
            )
            shown.update()
    shown.close()
    content = {"environment": describe_environment(device), "measurements": found}
    write_text(study.measured_file("losses"), json.dumps(content, indent=2) + "\n")


def forms_at(shapes: LossShapes, batch: int) -> list[str]:
    """The forms that are measured at a batch: not all pairs, where these are too many."""
    return [form for form in FORMS if form != "pairwise" or batch <= shapes.most_pairwise]


def interleaved(
    shapes: LossShapes, batch: int, forms: list[str], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each form in each round, all forms in turn; a first round is thrown away."""
    drawn = draw(shapes, batch, device)
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for number in range(1 + shapes.rounds):
        for form in forms:
            taken = timed(lambda form=form: differentiate(form, *drawn), device)
            if number:
                seconds[form].append(taken)
    return seconds


def draw(shapes: LossShapes, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The student's and the teacher's tokens (B, N, D), and the rows of the random term."""
    generator = torch.Generator().manual_seed(derive(0, "cost", batch))
    student, teacher = (
        torch.randn(batch, shapes.tokens, channels, generator=generator).to(device)
        for channels in (shapes.student_channels, shapes.teacher_channels)
    )
    rows = torch.randperm(batch * shapes.tokens, generator=generator)[: shapes.samples]
    return student, teacher, rows.to(device)


def differentiate(form: str, student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
    """The gradient of a form by the student's tokens."""
    student = student.requires_grad_()
    (gradient,) = torch.autograd.grad(FORMS[form](student, teacher, rows), student)
    return gradient


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that it takes, to the end of what it has started on a device."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def one_gradient(shapes: LossShapes, batch: int, form: str, device: torch.device) -> Iterator[None]:
    """The work whose memory is measured: beside the tokens that it is given."""
    small = shapes.replaced(tokens=2, samples=2)
    differentiate(form, *draw(small, 2, device))  # what torch loads at its first use
    drawn = draw(shapes, batch, device)
    yield
    differentiate(form, *drawn)
