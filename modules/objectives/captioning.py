"""Captioning: the text of a sample, word by word, by a decoder that looks at the tokens of another modality."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.encoders.tokenized_text import TEXT
from modules.encoders.tokenizer import check_text_model, read_tokenizer, vocabulary
from modules.encoders.trunk import build_trunk
from modules.objectives.aligned import Aligned, AlignmentObjective, select, shared_rows
from modules.objectives.pretraining import never_empty


class Captioning(AlignmentObjective):
    """CoCa's captioning loss (arXiv:2205.01917, eq. 3) for any modalities beside text, by a decoder of transformers.

    Teacher forcing: each token is told from those before it, and, by cross-attention, from all tokens of the other
    modality. Differs from CoCa in that the decoder is a model of its own, not the upper half of the text tower, so any
    text encoder serves; and in that each modality captions by itself, through a map of its own to the decoder's width.
    Padding is neither told nor looked at; samples that lack text or the modality are left out.

    Args:
        widths: of the tokens of each modality that is captioned.
        config: of a causal model with cross-attention, such as `{model_type: gpt2, n_embd: 128, …}`;
            `add_cross_attention` is set, and a `vocab_size` that it does not say follows from the tokenizer.
        tokenizer: the text encoder's `tokenizer.json`.
        text: which modality is text.
        max_tokens: longer texts are cut.

    Raises:
        ValueError: when the decoder has no cross-attention, is no causal model, or has fewer ids than the tokenizer or
            fewer positions than `max_tokens`; `configure`, when the model has no such text, lacks a modality or has it
            in another width; `check_inputs`, when the text has no ids, or is by another tokenizer with more of them.
        FileNotFoundError: when the tokenizer is not there.
    """

    compares_samples = False

    def __init__(
        self,
        widths: dict[str, int],
        config: dict[str, Any],
        tokenizer: str,
        text: str = "text",
        max_tokens: int = 64,
    ) -> None:
        super().__init__()
        if not widths or text in widths:
            raise ValueError(
                f"widths names {', '.join(widths) or 'nothing'}: expected what is captioned, and not {text}"
            )
        tokenizer_json = read_tokenizer(None, tokenizer)
        known = {**vocabulary(tokenizer_json), **config}
        built: Any = build_trunk({**known, "add_cross_attention": True}, is_language_model=True)
        if not any("cross" in name and "att" in name for name, _ in built.named_parameters()):
            raise ValueError(
                f"{type(built).__name__} has no cross-attention: take a model_type such as gpt2, or bert "
                "with is_decoder"
            )
        check_text_model(built, tokenizer_json, max_tokens)
        self.widths, self.text, self.max_tokens = dict(widths), text, max_tokens
        self.decoder, self.vocab_size = built, int(built.config.vocab_size)
        dim = int(built.config.hidden_size)
        self.maps = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})

    def configure(self, widths: Mapping[str, int], dim: int) -> None:
        if self.text not in widths:
            raise ValueError(
                f"captioning writes '{self.text}', the model has {', '.join(widths)}: set `text`"
            )
        for name, width in self.widths.items():
            if widths.get(name) != width:
                raise ValueError(
                    f"captioning of {name}, {width} wide: the model has tokens of widths {dict(widths)}; set `widths`"
                )

    def check_inputs(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        text = configs[self.text]
        if text["class_path"] != TEXT:
            raise ValueError(
                f"captioning needs the ids of '{self.text}', whose encoder takes {text['class_path']}, expected "
                f"{TEXT}: take an encoder of texts, not of cached features"
            )
        count = vocabulary(text["init_args"]["tokenizer_json"])["vocab_size"]
        if count > self.vocab_size:
            raise ValueError(
                f"the text encoder's tokenizer has {count} tokens, the decoder {self.vocab_size} ids: give captioning "
                "the tokenizer of the text encoder"
            )

    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return `captioning_<modality>` for each, the mean over the tokens of all ranks."""
        if self.text not in aligned.inputs or "input_ids" not in aligned.inputs[self.text]:
            raise ValueError(
                f"captioning needs the ids of '{self.text}', the model has inputs of "
                f"{', '.join(aligned.inputs) or 'nothing'}: name a modality of text that is no cached feature"
            )
        return {f"captioning_{name}": self._loss(aligned, name) for name in self.widths}

    def _loss(self, aligned: Aligned, name: str) -> Tensor:
        here, there = shared_rows(aligned.rows[name], aligned.rows[self.text], aligned.size)
        seen = select(aligned.tokens[name], here)
        text = {part: tensor[there, : self.max_tokens] for part, tensor in aligned.inputs[self.text].items()}
        ids, mask = text["input_ids"], text["attention_mask"].bool()
        logits = self.decoder(
            input_ids=_widened(never_empty(ids)),
            attention_mask=_widened(never_empty(mask)).long(),
            encoder_hidden_states=self.maps[name](never_empty(seen.features)),
            encoder_attention_mask=never_empty(seen.mask).long(),
            use_cache=False,
        ).logits[: len(ids), : ids.shape[1] - 1]
        told = mask[:, 1:] & mask[:, :-1]  # tokens with one before them
        logits = logits[told].float()  # (told, vocab_size)
        target = ids[:, 1:][told]
        total = nn.functional.cross_entropy(logits, target, reduction="sum")
        return global_mean(total, len(target))


def _widened(tensor: Tensor) -> Tensor:
    """Give texts of no token (rows, 0) one that nobody judges: libraries' layers cannot take an empty sequence."""
    return (
        tensor if tensor.shape[1] else torch.zeros(len(tensor), 1, dtype=tensor.dtype, device=tensor.device)
    )
