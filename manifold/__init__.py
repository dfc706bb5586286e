"""Fine-grained manifold distillation of vision transformers, and what every method shares."""

from importlib import import_module

_LAZY = {
    "decoupled_manifold_loss": "manifold.losses",
    "full_manifold_loss": "manifold.losses",
    "Distiller": "manifold.distiller",
    "Cohort": "manifold.training.cohort",
}

__all__ = list(_LAZY)


def __getattr__(name: str):
    # Resolved on first use, so that the Snakefile can read the configuration without loading torch.
    if name not in _LAZY:
        raise AttributeError(f"module 'manifold' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
