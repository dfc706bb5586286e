"""The typed configuration: one pydantic model a section, and an unknown key is an error.

``resolve`` merges a scale's file with what the user overrides and returns an ``Experiment``.
Nothing here imports torch, so that ``snakemake -n`` answers at once.
"""

from manifold.settings.data import Data, TeacherInput
from manifold.settings.experiment import CELL_FILES, Experiment, Students, check_folder_name
from manifold.settings.files import ROOT, find, merge, read_yaml, read_yaml_text
from manifold.settings.machine import Machine
from manifold.settings.messages import refuse_doubles, suggest, unknown
from manifold.settings.method import Method, StudentKey
from manifold.settings.networks import (
    PRETRAINED,
    TRAIN_TEACHER,
    UNTRAINED,
    LayerMap,
    Model,
    Pair,
)
from manifold.settings.plain import fingerprint, to_plain
from manifold.settings.recipe import Mixing, Optimizer, Recipe
from manifold.settings.resolve import derived, read_experiment, resolve, write_experiment
from manifold.settings.section import Section
from manifold.settings.words import parse_words, refuse_repeated, to_words

__all__ = [
    "CELL_FILES",
    "PRETRAINED",
    "ROOT",
    "TRAIN_TEACHER",
    "UNTRAINED",
    "Data",
    "Experiment",
    "LayerMap",
    "Machine",
    "Method",
    "Mixing",
    "Model",
    "Optimizer",
    "Pair",
    "Recipe",
    "Section",
    "StudentKey",
    "Students",
    "TeacherInput",
    "check_folder_name",
    "derived",
    "find",
    "fingerprint",
    "merge",
    "parse_words",
    "read_experiment",
    "read_yaml",
    "read_yaml_text",
    "refuse_doubles",
    "refuse_repeated",
    "resolve",
    "suggest",
    "to_plain",
    "to_words",
    "unknown",
    "write_experiment",
]
