"""The paper's method: soft KD with the manifold losses of several layer pairs."""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from manifold.distiller import Distiller, FrozenTeacher
from manifold.losses import decoupled_manifold_loss, full_manifold_loss
from manifold.settings.section import Count, NotNegative


class Manifold(Distiller):
    """Soft KD + mean over layer pairs of (intra·L_intra + inter·L_inter + random·L_random).

    ``samples`` (the paper's K) tokens of the batch enter the random term, without replacement,
    drawn anew for each layer pair and step; all of them when the batch has fewer. A term of weight
    0 is left out.

    Source: Hao et al. 2022, arXiv 2107.01378, section 3; weights 4, 0.1, 0.2, K = 192 and the
    mean over layer pairs as in Hao840/manifold-distillation.
    """

    uses_layers = True
    published_base = "soft_kd"

    def __init__(
        self,
        *networks,
        intra: NotNegative,
        inter: NotNegative,
        random: NotNegative,
        samples: Count,
        **common,
    ):
        super().__init__(*networks, **common)
        self.weights = {"intra": intra, "inter": inter, "random": random}
        self.samples = samples

    def terms(self, student, teacher, targets):
        layer_losses = [
            torch.stack(decoupled_manifold_loss(own, other, self.draw_rows(own)))
            for own, other in self.token_pairs(student, teacher)
        ]
        means = dict(zip(self.weights, torch.stack(layer_losses).mean(dim=0), strict=True))
        return {
            **self.base_terms(student, teacher, targets),
            **{name: weight * means[name] for name, weight in self.weights.items() if weight},
        }

    def draw_rows(self, tokens: Tensor) -> Tensor:
        """Draw (K,) rows of the flattened (B·N) order from the method's own generator."""
        rows = tokens.shape[0] * tokens.shape[1]
        return torch.randperm(rows, generator=self.sampling)[: self.samples]


class ManifoldOfScrambledMaps(Manifold):
    """``Manifold`` with the teacher's logits, and the maps of its scrambled weights.

    The control for what the maps carry: the network is the teacher with the entries of every
    parameter in a random order, drawn once from the seed. Its maps still depend on the image, and
    each parameter keeps its mean and spread. It costs a teacher's pass of its own.

    Source: a control of this suite.
    """

    def __init__(self, student, teacher, **arguments):
        super().__init__(student, teacher, **arguments)
        scrambled = deepcopy(teacher.model)
        with torch.no_grad():
            for parameter in scrambled.parameters():
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        maps = FrozenTeacher(scrambled, teacher.most_tokens, teacher.rescale)
        maps.watch(self.layers.teacher)
        object.__setattr__(self, "maps", maps)  # as the teacher: no submodule, and never trained

    def ask_teacher(self, images, student):
        teacher = super().ask_teacher(images, student)
        return replace(teacher, tokens=self.maps(images).tokens)


class ManifoldFull(Distiller):
    """Soft KD + weight · mean over layer pairs of the full (coupled) manifold loss, exact.

    Source: Hao et al. 2022, arXiv 2107.01378, section 3, the loss before it is decoupled. No
    weight was published; as a mean over map entries it is what the random term estimates.
    """

    uses_layers = True
    published_base = "soft_kd"
    gathers = False  # D×D sums cross the ranks instead of tokens

    def __init__(self, *networks, weight: NotNegative, **common):
        super().__init__(*networks, **common)
        self.weight = weight

    def terms(self, student, teacher, targets):
        losses = [
            full_manifold_loss(own, other, self.relational_ranks)
            for own, other in self.token_pairs(student, teacher)
        ]
        return {
            **self.base_terms(student, teacher, targets),
            "full": self.weight * torch.stack(losses).mean(),
        }
