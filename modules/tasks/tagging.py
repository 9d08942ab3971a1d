"""Tagging: a tag for each word of a text, such as the entities of NER, with whatever else the sample has in view."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from modules.bio import IGNORED, tags_of
from modules.encoders.encoder import Encoder
from modules.encoders.tokenized_text import check_keeps_tokens, tokenizer_of
from modules.fusion.fusion import Fused, Fusion
from modules.tasks.task import Inputs, Judged, Task, Truth

if TYPE_CHECKING:
    from modules.metrics.scores import Tally


class Tagging(Task):
    """Cross-entropy of one linear map over the fused token of each word's first sub-word.

    So BERT tags (arXiv:1810.04805, section 5.3), without the fusion.
    A word that has no token, because the text is cut before it, is answered with `O` and counts as such; it has no
    loss.

    Args:
        dim: width of the fused tokens.
        entities: types such as PER and LOC; the tags are BIO's.
        modality: the text's.

    Raises:
        ValueError: when there is no entity, or one is named twice.
    """

    name = "tagging"

    def __init__(self, dim: int, entities: list[str], modality: str = "text") -> None:
        super().__init__(dim)
        if not entities or len(set(entities)) < len(entities):
            raise ValueError(f"entities are {', '.join(entities) or 'none'}: expected one or more, each once")
        self.entities, self.modality = list(entities), modality
        self.linear = nn.Linear(dim, len(tags_of(entities)))

    def init_args(self) -> dict[str, Any]:
        return {"dim": self.dim, "entities": self.entities, "modality": self.modality}

    def check(self, encoders: Mapping[str, Encoder], fusion: Fusion) -> None:
        if self.modality not in encoders:
            raise ValueError(
                f"Tagging tags the words of '{self.modality}', the encoders are {', '.join(encoders)}: add one for "
                "it, or say under which name the text is (task.init_args.modality)"
            )
        encoder = encoders[self.modality]
        tokenizer_of(encoder, "Tagging")
        if fusion.num_leading is None:
            raise ValueError(
                f"{type(fusion).__name__} does not keep the tokens of the text, which Tagging needs one by one: take "
                "EarlyFusion or CrossAttentionFusion"
            )
        check_keeps_tokens(encoder, "Tagging")

    def input_configs(self, encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        configs = {name: dict(config) for name, config in encoders.items()}
        text = configs[self.modality]
        configs[self.modality] = {
            "class_path": "datamodules.modalities.tagged_text.TaggedText",
            "init_args": {**text["init_args"], "tags": tags_of(self.entities)},
        }
        return configs

    def split(
        self, inputs: Mapping[str, Inputs], rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, Inputs], dict[str, Tensor], Truth]:
        text = dict(inputs[self.modality])
        truth = Truth({name: text.pop(name) for name in ("tags", "first_token")}, rows[self.modality])
        return {**inputs, self.modality: text}, dict(rows), truth

    def logits(self, fused: Fused, truth: Truth) -> tuple[Tensor, Tensor]:
        """Return logits (rows, words, tags), float32, and which words they are about (rows, words), bool."""
        first = truth.inputs["first_token"]
        tokens = fused.by_modality[self.modality]
        features, mask = tokens.features[truth.rows], tokens.mask[truth.rows]
        place = first.clamp(0, mask.shape[1] - 1)
        is_seen = (first >= 0) & mask.gather(1, place)
        features = features.gather(1, place.unsqueeze(-1).expand(-1, -1, features.shape[2]))
        return self.linear(features).float(), is_seen

    def forward(self, fused: Fused, truth: Truth) -> Judged:
        """Judge all words.

        Args:
            fused: of the whole batch, by a fusion that keeps tokens apart.
            truth: `tags` (rows, words), int64, IGNORED behind a row's last word; `first_token` (rows, words), int64,
                the place of each word's first sub-word among the text's tokens, -1 where there is none.
        """
        tags = truth.inputs["tags"]
        logits, is_seen = self.logits(fused, truth)
        asked = tags.masked_fill(~is_seen, IGNORED)
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), asked.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        said = logits.argmax(2).masked_fill(~is_seen, 0)  # O
        return Judged(total, (asked != IGNORED).sum(), (said.detach(), tags))

    def tally(self) -> "Tally":
        from modules.metrics.entities import EntityTally

        return EntityTally(self.entities)
