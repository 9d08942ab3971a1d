"""Assistant: a language model that is shown media, through projectors, and answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules import parts
from modules.encoders.encoder import Encoder
from modules.language_model import LanguageModel
from modules.projections import Projector
from modules.tokens import Tokens

CHAT_FORMAT = {"user": "[USER]{}", "assistant": "[ASSISTANT]{}[EOS]"}
CONVERSATION = "conversation"


class Prompt(NamedTuple):
    """Conversations with their media in place.

    embeds: (rows, tokens, dim); mask: (rows, tokens) bool; target: (rows, tokens) int64, the token's own id where
    the assistant speaks and -100 elsewhere; source: (rows, tokens) int64, -1 for text and k for a medium of kind k.
    """

    embeds: Tensor
    mask: Tensor
    target: Tensor
    source: Tensor


class Assistant(nn.Module):
    """LLaVA's architecture (arXiv:2304.08485, section 4.1) for any set of modalities.

    Args:
        language_model: what speaks.
        encoders: by modality.
        projectors: by the same modalities, from an encoder's width to the language model's.

    Raises:
        ValueError: when widths or modalities do not match.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        encoders: Mapping[str, Encoder],
        projectors: Mapping[str, Projector],
    ) -> None:
        super().__init__()
        if set(encoders) != set(projectors):
            raise ValueError(
                f"encoders for {', '.join(sorted(encoders))} but projectors for {', '.join(sorted(projectors))}: "
                "expected one of each for every modality"
            )
        for name, projector in projectors.items():
            wanted = (encoders[name].dim, language_model.dim)
            if (projector.in_dim, projector.out_dim) != wanted:
                raise ValueError(
                    f"the {name} projector goes from {projector.in_dim} to {projector.out_dim}, expected from "
                    f"{wanted[0]} (its encoder) to {wanted[1]} (the language model): take all from one run"
                )
        self.language_model = language_model
        self.encoders = nn.ModuleDict(encoders)
        self.projectors = nn.ModuleDict(projectors)

    @classmethod
    def load(cls, folder: str | Path, allow: list[str] | None = None) -> "Assistant":
        """Load `language_model`, every `encoders.<modality>` and `projectors.<modality>` of a run's `parts/` folder.

        Raises:
            PartError: when one is missing or damaged.
        """
        found = parts.load_all(folder, ("encoders", "projectors"), allow)
        language_model = parts.load(str(Path(folder, "language_model")), allow)
        projectors = {f"projectors.{name}": part for name, part in found["projectors"].items()}
        parts.check_siblings(projectors, {"language_model": language_model})
        return cls(language_model, found["encoders"], found["projectors"]).eval()

    @property
    def media(self) -> list[str]:
        """Kinds of media, in the order of their marks in the token ids."""
        return sorted(self.encoders)

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        """What each modality needs to know, the conversation's included."""
        text = self.language_model.input_config["init_args"]
        conversation = {
            "class_path": "datamodules.modalities.conversation.Conversation",
            "init_args": {**text, "media": self.media, "chat_format": CHAT_FORMAT},
        }
        encoders = {name: encoder.input_config for name, encoder in self.encoders.items()}
        return {**encoders, CONVERSATION: conversation}

    def prompt(self, inputs: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Tensor]) -> Prompt:
        """Put the projected media of each sample at their marks in its conversation.

        The first mark of a kind stands for the sample's first medium of that kind, and so on. A mark whose
        medium is absent (it could not be decoded) takes no place.

        Args:
            inputs: of every modality and of the conversation.
            rows: (rows,) which sample each row belongs to, by modality.
        """
        conversation = inputs[CONVERSATION]
        ids, mask = conversation["input_ids"], conversation["attention_mask"].bool()  # (rows, tokens)
        media = {
            name: self.projectors[name](self.encoders[name](inputs[name])) for name in self.media
        }  # every encoder runs, on zero rows as well: all ranks take the same steps
        lengths = mask.long()
        places = {}
        for kind, name in enumerate(self.media):
            place = _Place.of(media[name], (ids == -1 - kind) & mask, rows[CONVERSATION], rows[name])
            lengths = lengths.masked_fill((ids == -1 - kind) & mask, 0)
            lengths[place.row, place.column] = media[name].mask.sum(1)[place.medium]
            places[name] = place
        ends = lengths.cumsum(1)
        width = int(ends[:, -1].max()) if ends.numel() else 0
        starts = ends - lengths  # (rows, tokens): where each token goes

        text = mask & (ids >= 0)
        embedded = self.language_model.embed(ids.clamp(min=0))
        embeds = embedded.new_zeros(len(ids), width, self.language_model.dim)
        target = ids.new_full((len(ids), width), -100)
        source = ids.new_full((len(ids), width), -1)
        row, column = text.nonzero(as_tuple=True)
        embeds = embeds.index_put((row, starts[row, column]), embedded[row, column])
        spoken = text & conversation["answer_mask"].bool()
        row, column = spoken.nonzero(as_tuple=True)
        target[row, starts[row, column]] = ids[row, column]
        for kind, name in enumerate(self.media):
            tokens, place = media[name], places[name]
            real = tokens.mask[place.medium]  # (places, media tokens)
            index, position = real.nonzero(as_tuple=True)
            rank = (real.long().cumsum(1) - 1)[index, position]
            where = (place.row[index], starts[place.row, place.column][index] + rank)
            features = tokens.features[place.medium[index], position]
            embeds = embeds.index_put(where, features.to(embeds.dtype))
            source[where] = kind
        total = ends[:, -1:] if ends.numel() else lengths.new_zeros(len(ids), 1)
        return Prompt(embeds, torch.arange(width, device=ids.device) < total, target, source)

    def forward(
        self, inputs: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (answer tokens, vocabulary) and the ids (answer tokens,) that should have been said."""
        prompt = self.prompt(inputs, rows)
        features = self.language_model(
            {"inputs_embeds": prompt.embeds, "attention_mask": prompt.mask}
        ).features
        said = prompt.target[:, 1:] != -100
        return self.language_model.head(features[:, :-1][said]), prompt.target[:, 1:][said]

    @torch.no_grad()
    def generate(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        rows: Mapping[str, Tensor],
        max_new_tokens: int = 32,
    ) -> list[str]:
        """Answer the last turn of every conversation, greedily; what the conversation itself answers is not seen."""
        prompt = self.prompt(self._asked(inputs), rows)
        if not len(prompt.mask):
            return []
        embeds, mask = _pad_left(prompt.embeds, prompt.mask)
        tokenizer = self._tokenizer()
        ids = self.language_model.generate(embeds, mask, max_new_tokens=max_new_tokens).tolist()
        end = tokenizer.token_to_id("[EOS]")
        said = [row[: row.index(end)] if end in row else row for row in ids]
        return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in said]

    @torch.no_grad()
    def attention(
        self, inputs: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        """Return, for every conversation, how much the first word of the answer looks at each media token.

        Attention of the last prompt token, averaged over heads and layers: modality -> (media tokens,), where
        one media token stands for `projectors[modality].group` tokens of the encoder.
        """
        prompt = self.prompt(self._asked(inputs), rows)
        model = self.language_model.model
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")  # the fused kernels do not return weights
        try:
            outcome = model(
                inputs_embeds=prompt.embeds,
                attention_mask=prompt.mask.long(),
                output_attentions=True,
                use_cache=False,
            )
        finally:
            model.set_attn_implementation(before)
        weights = torch.stack(outcome.attentions).mean((0, 2))  # (rows, to, from)
        last = prompt.mask.sum(1) - 1
        looks = weights[torch.arange(len(last), device=last.device), last]  # (rows, from)
        return [
            {name: looks[row][prompt.source[row] == kind] for kind, name in enumerate(self.media)}
            for row in range(len(looks))
        ]

    def _asked(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
        conversation = inputs[CONVERSATION]
        positions = torch.arange(conversation["input_ids"].shape[1], device=conversation["input_ids"].device)
        asked = positions < conversation["prompt_length"].unsqueeze(1)
        return {
            **inputs,
            CONVERSATION: {**conversation, "attention_mask": conversation["attention_mask"] & asked},
        }

    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.language_model.tokenizer_json)


class _Place(NamedTuple):
    """Where media go: mark (row, column) of the conversations takes row `medium` of the media; each (places,)."""

    row: Tensor
    column: Tensor
    medium: Tensor

    @classmethod
    def of(cls, media: Tokens, marks: Tensor, samples: Tensor, owners: Tensor) -> "_Place":
        row, column = marks.nonzero(as_tuple=True)
        ordinal = (marks.long().cumsum(1) - 1)[row, column]
        first = torch.searchsorted(owners, samples[row])
        medium = first + ordinal
        known = medium < len(owners)
        known &= owners[medium.clamp(max=max(0, len(owners) - 1))] == samples[row] if len(owners) else known
        return cls(row[known], column[known], medium[known])


def _pad_left(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    width = mask.shape[1]
    shift = width - mask.sum(1, keepdim=True)
    index = torch.arange(width, device=mask.device) - shift  # (rows, tokens), negative where padded
    moved = embeds.gather(1, index.clamp(min=0).unsqueeze(-1).expand_as(embeds))
    return moved * (index >= 0).unsqueeze(-1), index >= 0
