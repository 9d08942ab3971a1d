"""UnifiedLanguageModel: a causal language model whose vocabulary is grown by other modalities' units, as a part."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.language_model import LanguageModel
from modules.parts import Part, within
from modules.vocabulary import TEXT, Vocabulary


class UnifiedLanguageModel(Part):
    """A LanguageModel over one vocabulary of words, units and marks (as in Chameleon, arXiv:2405.09818, section 2).

    The embedding of text stays what it was; new rows are initialised as the model's own were.

    Args:
        language_model: one of text alone, which is grown in place, or one that was grown for these very units.
        units: modality -> size of its codebook.
        max_units: modality -> at most so many units in a sequence.
        text_size: ids of text, where `language_model` is grown already; a part's card says it.

    Raises:
        ValueError: when `language_model` is another kind of part, was grown for other units, or the two mappings name
            different modalities.
    """

    def __init__(
        self,
        language_model: Part,
        units: Mapping[str, int],
        max_units: Mapping[str, int],
        text_size: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(language_model, LanguageModel):
            raise ValueError(
                f"language_model was given a {type(language_model).__name__}, expected a LanguageModel"
            )
        if set(units) != set(max_units) or any(count < 1 for count in max_units.values()):
            raise ValueError(
                f"units are of {', '.join(sorted(units)) or 'none'}, max_units is {dict(max_units)}: expected how "
                "many units a sequence may have, one or more, for each of them"
            )
        grown = language_model.vocab_size
        self.vocabulary = Vocabulary(grown if text_size is None else text_size, units)
        if text_size is None:
            language_model.model.resize_token_embeddings(self.vocabulary.size, mean_resizing=False)
            language_model.vocab_size = self.vocabulary.size
        elif grown != self.vocabulary.size:
            raise ValueError(
                f"the language model has {grown} ids, and {text_size} of text with units {dict(units)} and their marks "
                f"make {self.vocabulary.size}: it was grown for other tokenizers"
            )
        self.language_model = language_model
        self.units, self.max_units, self.text_size = (
            dict(units),
            dict(max_units),
            self.vocabulary.spans[TEXT].count,
        )

    def init_args(self) -> dict[str, Any]:
        return {
            "language_model": within(self.language_model),
            "units": self.units,
            "max_units": self.max_units,
            "text_size": self.text_size,
        }

    def assets(self) -> dict[str, str]:
        return self.language_model.assets()

    @property
    def head(self) -> nn.Module:
        """The output layer: features (…, dim) to logits (…, ids)."""
        return self.language_model.head

    @torch.no_grad()
    def begin_as(self, modality: str, codebook: Tensor) -> None:
        """Let the embeddings of a modality's units begin as far from one another as the entries of its codebook lie.

        A random projection of the entries (Johnson and Lindenstrauss: distances stay, nearly), as large as the
        embeddings of text, is added to them; so what is learned of a unit holds for those like it from the first step.

        Args:
            modality: one of `units`.
            codebook: where each entry lies (units, width).
        """
        span = self.vocabulary.spans[modality]
        embeddings = self.language_model.model.get_input_embeddings().weight
        width = codebook.shape[1]
        entries = (codebook - codebook.mean(0)).to(embeddings)
        entries = entries / entries.square().mean().sqrt().clamp(min=1e-6)
        projection = torch.randn(width, embeddings.shape[1]).to(embeddings) / width**0.5
        size = embeddings[: self.text_size].std()
        embeddings[span.first : span.first + span.count] += size * entries @ projection

    def longest(self, modality: str) -> int:
        """Return how many ids a modality takes at most, its marks included."""
        return 2 + (self.language_model.max_tokens if modality == TEXT else self.max_units[modality])

    def check_length(self, sequence: tuple[str, ...]) -> None:
        """Refuse a sequence of modalities that may be longer than the model's table of positions.

        Raises:
            ValueError: says which part takes how many.
        """
        config = self.language_model.model.config.to_dict()
        positions = config.get("max_position_embeddings") or config.get("n_positions")
        lengths = {name: self.longest(name) for name in sequence}
        if positions is not None and sum(lengths.values()) > positions:
            counted = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise ValueError(
                f"a sequence of {' '.join(sequence)} has up to {sum(lengths.values())} ids ({counted}), the language "
                f"model {positions} positions: lower its max_tokens or max_units, or build it with more positions"
            )
