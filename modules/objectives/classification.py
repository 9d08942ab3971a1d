"""Classification: supervised pretraining by labels, as ImageNet towers are trained."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.encoders.encoder import Encoder
from modules.objectives.pretraining import PretrainingObjective
from modules.tokens import Tokens


class Classification(PretrainingObjective):
    """Cross-entropy of a linear layer over the pooled tokens.

    Args:
        encoder: the encoder to train.
        classes: names of the classes, as the shards' `.cls` members have them.
        label_smoothing: share of the probability spread over all classes (arXiv:1512.00567, section 7).
    """

    def __init__(self, encoder: Encoder, classes: list[str], label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classes = list(classes)
        self.chance = 1 / len(classes)
        self.label_smoothing = label_smoothing
        self.norm = nn.LayerNorm(encoder.dim)
        self.linear = nn.Linear(encoder.dim, len(classes))

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return {
            "label": {
                "class_path": "datamodules.modalities.label.Label",
                "init_args": {"classes": self.classes},
            }
        }

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        label = inputs["label"]
        return {name: tensor for name, tensor in inputs.items() if name != "label"}, label

    def forward(self, tokens: Tokens, target: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge pooled tokens against labels.

        Args:
            tokens: (rows, tokens, dim).
            target: (rows,), int64 class indices.
        """
        logits = self.linear(self.norm(tokens.pooled()))  # (rows, classes)
        total = nn.functional.cross_entropy(
            logits, target, label_smoothing=self.label_smoothing, reduction="sum"
        )
        rows = max(1, len(target))
        accuracy = (logits.argmax(1) == target).sum() / rows
        return {"classification": global_mean(total, len(target))}, {
            "accuracy": torch.as_tensor(accuracy).detach()
        }
