"""Classification: one of several classes for each sample, from whatever modalities it has."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modules.fusion.fusion import Fused
from modules.tasks.task import Inputs, Judged, Task, Truth, without

if TYPE_CHECKING:
    from modules.metrics.scores import Tally


class Classification(Task):
    """Cross-entropy of one linear map over the pooled fused tokens.

    The map is linear and nothing else, so that over LateFusion the logits are the mean of the modalities' own. A sample
    without any modality gets the map's bias: how common each class is.

    Args:
        dim: width of the fused tokens.
        classes: names, as the shards' `.cls` members have them.
        class_weights: class -> how much an error on it counts, 1 for those not named; each term is divided by the
            weights of all, as torch's `cross_entropy` does.
        label_smoothing: share of the probability spread over all classes (arXiv:1512.00567, section 7).

    Raises:
        ValueError: when there are fewer than two classes, one is named twice, or a weight is of another class or not
            positive.
    """

    name = "classification"
    modality = "label"
    class_weight: Tensor

    def __init__(
        self,
        dim: int,
        classes: list[str],
        class_weights: dict[str, float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(dim)
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise ValueError(f"classes are {', '.join(classes) or 'none'}: expected two or more, each once")
        weights = class_weights or {}
        if wrong := {name: w for name, w in weights.items() if name not in classes or not w > 0}:
            raise ValueError(
                f"class_weights has {wrong}: expected weights above 0 of {', '.join(classes)[:300]}"
            )
        self.classes, self.class_weights = list(classes), dict(weights)
        self.label_smoothing = label_smoothing
        self.linear = nn.Linear(dim, len(classes))
        weight = torch.tensor([float(weights.get(name, 1.0)) for name in classes])
        self.register_buffer("class_weight", weight, persistent=False)

    def init_args(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "classes": self.classes,
            "class_weights": self.class_weights,
            "label_smoothing": self.label_smoothing,
        }

    @property
    def chance(self) -> dict[str, float]:
        return {"accuracy": 1 / len(self.classes)}

    def input_configs(self, encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        label = {
            "class_path": "datamodules.modalities.label.Label",
            "init_args": {"classes": self.classes},
        }
        return {**{name: dict(config) for name, config in encoders.items()}, self.modality: label}

    def split(
        self, inputs: Mapping[str, Inputs], rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, Inputs], dict[str, Tensor], Truth]:
        return without(self.modality, inputs, rows)

    def logits(self, fused: Fused) -> Tensor:
        """Return the logits of all samples, (size, classes), float32."""
        return self.linear(fused.tokens.pooled()).float()

    def forward(self, fused: Fused, truth: Truth) -> Judged:
        """Judge all samples that have a label.

        Args:
            fused: of the whole batch.
            truth: `label` (rows,), int64.
        """
        logits, label = self.logits(fused)[truth.rows], truth.inputs["label"]
        total = nn.functional.cross_entropy(
            logits,
            label,
            weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return Judged(total, self.class_weight[label].sum(), (logits.argmax(1).detach(), label))

    def tally(self) -> "Tally":
        from modules.metrics.classes import ClassTally

        return ClassTally(self.classes)
