"""A batch as alignment sees it, of any number of modalities and any pattern of presence."""

import pytest
import torch

from modules.objectives.aligned import Aligned
from modules.tokens import Tokens


@pytest.fixture
def aligned():
    """Return a function from samples by modality to Aligned, with tokens that the embeddings depend on."""

    def build(present, *, size=6, steps=5, width=8, dim=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        embeddings, rows, tokens = {}, {}, {}
        for name, samples in present.items():
            features = torch.randn(size, steps, width, generator=generator, dtype=torch.float64)[samples]
            features.requires_grad_()
            lengths = torch.tensor([1 + sample % steps for sample in samples], dtype=torch.int64)
            tokens[name] = Tokens(features, torch.arange(steps) < lengths.unsqueeze(1))
            matrix = torch.randn(width, dim, generator=generator, dtype=torch.float64)
            embeddings[name] = torch.nn.functional.normalize(tokens[name].pooled() @ matrix, dim=1)
            rows[name] = torch.tensor(samples, dtype=torch.int64)
        return Aligned(embeddings, rows, size, tokens)

    return build
