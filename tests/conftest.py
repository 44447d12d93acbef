"""What every test runs under: one thread, fixed seeds, no network, no Hub."""

from __future__ import annotations

import os

# Before torch, datasets or huggingface_hub are imported: they read these once.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
)

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from facetrm.core.progress import shown_logs
from network import loopback_only

if TYPE_CHECKING:
    from facetrm.recipes.run import Run

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files and generated tables; read the diff"
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    with loopback_only():
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests convert out of the user's cache."""
    os.environ["FACETRM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _launcher() -> Iterator[None]:
    """Leave the environment as it was: TrainingArguments writes there what accelerate launch would say of FSDP."""
    before = {name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))}
    yield
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        if name not in before:
            del os.environ[name]


@pytest.fixture(autouse=True)
def _log_lines() -> Iterator[None]:
    """Show what the library logs as JSON lines, so that a test can read it; the command line sets its own way."""
    with shown_logs(json_lines=True):
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run in a folder that tests only read."""
    from tiny_runs import run  # heavy, and only a few files need it

    return run(tmp_path_factory.mktemp("tiny") / "run")
