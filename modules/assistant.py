"""Assistant: a language model that is shown media, through projectors, and answers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules import parts
from modules.connector import Connector
from modules.encoders.encoder import Encoder
from modules.language_model import LanguageModel
from modules.media_attention import MediaAttention, View, looking
from modules.tokens import Tokens

CHAT_FORMAT = {"user": "[USER]{}", "assistant": "[ASSISTANT]{}[EOS]"}
CONVERSATION = "conversation"


class Prompt(NamedTuple):
    """Conversations with their media in place.

    embeds: (rows, tokens, dim); mask: (rows, tokens) bool; target: (rows, tokens) int64, the token's own id where
    the assistant speaks and -100 elsewhere; source: (rows, tokens) int64, -1 for text and k for a medium of kind k;
    views: by modality, what the text looks at instead of holding it.
    """

    embeds: Tensor
    mask: Tensor
    target: Tensor
    source: Tensor
    views: dict[str, View]


class Assistant(nn.Module):
    """LLaVA's architecture (arXiv:2304.08485, section 4.1) for any set of modalities; Flamingo's for those that have
    a MediaAttention.

    Args:
        language_model: what speaks.
        encoders: by modality.
        projectors: by the same modalities, from an encoder's width to the language model's: a Projector or a
            PerceiverResampler, whose tokens stand in the text, or a MediaAttention, whose tokens it looks at.

    Raises:
        ValueError: when widths, modalities or layers do not match.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        encoders: Mapping[str, Encoder],
        projectors: Mapping[str, Connector],
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
            if isinstance(projector, MediaAttention):
                projector.check_layers(name, len(language_model.layers))
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
    def looked_at(self) -> dict[str, MediaAttention]:
        """The layers of those modalities that the language model looks at, in the order of `media`."""
        connectors = {name: self.projectors[name] for name in self.media}
        return {name: part for name, part in connectors.items() if isinstance(part, MediaAttention)}

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
            if name not in self.looked_at:
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
            if name in self.looked_at:
                continue
            tokens, place = media[name], places[name]
            real = tokens.mask[place.medium]  # (places, media tokens)
            index, position = real.nonzero(as_tuple=True)
            rank = (real.long().cumsum(1) - 1)[index, position]
            where = (place.row[index], starts[place.row, place.column][index] + rank)
            features = tokens.features[place.medium[index], position]
            embeds = embeds.index_put(where, features.to(embeds.dtype))
            source[where] = kind
        total = ends[:, -1:] if ends.numel() else lengths.new_zeros(len(ids), 1)
        real = torch.arange(width, device=ids.device) < total
        views = {name: _view(media[name], places[name], starts, real) for name in self.looked_at}
        return Prompt(embeds, real, target, source, views)

    def shown(self, views: Mapping[str, View]) -> AbstractContextManager[None]:
        """Let the language model look at what the prompts of a batch show it, as long as this lasts."""
        return looking(self.language_model.layers, self.looked_at, views) if views else nullcontext()

    def forward(
        self, inputs: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (answer tokens, vocabulary) and the ids (answer tokens,) that should have been said."""
        prompt = self.prompt(inputs, rows)
        with self.shown(prompt.views):
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
        prompt = _pad_left(prompt)
        tokenizer = self._tokenizer()
        with self.shown(prompt.views):
            generated = self.language_model.generate(
                prompt.embeds, prompt.mask, max_new_tokens=max_new_tokens
            )
        ids = generated.tolist()
        end = tokenizer.token_to_id("[EOS]")
        said = [row[: row.index(end)] if end in row else row for row in ids]
        return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in said]

    @torch.no_grad()
    def attention(
        self, inputs: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        """Return, for every conversation, how much the first word of the answer looks at each media token.

        Attention of the last prompt token, averaged over heads and layers: modality -> (media tokens,), where
        one media token stands for `projectors[modality].group` tokens of the encoder. Nothing for a modality with a
        MediaAttention, whose tokens are not among those of the text.
        """
        prompt = self.prompt(self._asked(inputs), rows)
        model = self.language_model.model
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")  # the fused kernels do not return weights
        try:
            with self.shown(prompt.views):
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


def _view(media: Tokens, place: _Place, starts: Tensor, real: Tensor) -> View:
    """Gather the media of each conversation, and tell which of them each token looks at.

    Args:
        media: Tokens (media, tokens, dim).
        place: of the media, in the order of rows.
        starts: (rows, marks and tokens), int64: where each goes in the prompt; a mark, where what follows it goes.
        real: (rows, width of the prompt), bool.
    """
    rows, width = real.shape
    ordinal = torch.arange(len(place.row), device=real.device) - torch.searchsorted(place.row, place.row)
    count = int(ordinal.max()) + 1 if len(ordinal) else 0
    length, dim = media.features.shape[1:]
    shape = (rows, count, length)
    features = media.features.new_zeros(*shape, dim).index_put(
        (place.row, ordinal), media.features[place.medium]
    )
    mask = media.mask.new_zeros(shape).index_put((place.row, ordinal), media.mask[place.medium])
    owner = torch.arange(count, device=real.device).repeat_interleave(length).expand(rows, -1)
    begins = starts.new_zeros(rows, width + 1).index_put(
        (place.row, starts[place.row, place.column]), starts.new_ones(len(place.row)), accumulate=True
    )
    seen = (begins[:, :width].cumsum(1) - 1).masked_fill(~real, -1)
    return View(Tokens(features.flatten(1, 2), mask.flatten(1, 2)), owner, seen)


def _pad_left(prompt: Prompt) -> Prompt:
    """Move the padding of every row before its tokens, so that each ends in a real one; target and source stay."""
    width = prompt.mask.shape[1]
    shift = width - prompt.mask.sum(1, keepdim=True)
    index = torch.arange(width, device=shift.device) - shift  # (rows, tokens), negative where padded
    real, source = index >= 0, index.clamp(min=0)
    moved = prompt.embeds.gather(1, source.unsqueeze(-1).expand_as(prompt.embeds)) * real.unsqueeze(-1)
    views = {
        name: view._replace(seen=view.seen.gather(1, source).masked_fill(~real, -1))
        for name, view in prompt.views.items()
    }
    return prompt._replace(embeds=moved, mask=real, views=views)
