"""Every test runs offline, on one thread and from a fixed seed."""

import os

# Read when torch, tokenizers and huggingface_hub are imported, so they are set before any test is.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import random
import sys

import numpy
import pytest


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Seed every generator in use; torch only where a test has imported it, since that costs seconds."""
    random.seed(0)
    numpy.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
