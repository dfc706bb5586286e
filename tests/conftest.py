"""What the tests share: one torch thread, and a small cohort's configuration."""

import pytest
import torch

from manifold import config


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def experiment(tmp_path):
    """Resolve the smoke scale with its results in a temporary folder, and what else is given."""

    def make(**overrides):
        return config.resolve({"scale": "smoke", "results": str(tmp_path), **overrides})

    return make
