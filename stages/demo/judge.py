"""Judge: what the demo's aligned encoders see in pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.demo.scenes import THINGS

if TYPE_CHECKING:
    from torch import Tensor

    from modules.embedder import Embedder


@dataclass(frozen=True)
class Judge:
    """What aligned encoders see in pictures of one thing: the nearest of 60 descriptions."""

    embedder: "Embedder"

    def things(self, pixels: "Tensor") -> list[str]:
        """Return a thing, such as `red seven`, for each picture (rows, 3, height, width)."""
        texts = [f"a {thing}" for thing in THINGS]
        nearest = (self.pictures(pixels) @ self.texts(texts).T).argmax(1)
        return [str(THINGS[number]) for number in nearest.tolist()]

    def retrieved(self, pixels: "Tensor", texts: Sequence[str]) -> float:
        """Return how often picture i is nearer to text i than to any other."""
        nearest = (self.pictures(pixels) @ self.texts(texts).T).argmax(1)
        right = [texts[found] == texts[row] for row, found in enumerate(nearest.tolist())]
        return sum(right) / len(right)

    def pictures(self, pixels: "Tensor") -> "Tensor":
        """Embed pictures."""
        return self._embed("image", {"pixels": pixels})

    def texts(self, texts: Sequence[str]) -> "Tensor":
        """Embed texts."""
        return self._embed("text", text_inputs(self.embedder.input_configs["text"], texts))

    def _embed(self, modality: str, inputs: Mapping[str, "Tensor"]) -> "Tensor":
        import torch

        with torch.inference_mode():
            return self.embedder.embed(modality, inputs)


def text_inputs(config: Mapping[str, Any], texts: Sequence[str]) -> dict[str, "Tensor"]:
    """Return the Inputs of texts."""
    from datamodules.modalities.build import build_modalities

    return build_modalities({"text": config})["text"].collate(list(texts))
