"""The stage itself: a language model learns to go on from any modality to any other, one token at a time."""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from modules.collectives import global_mean
from modules.packing import pack
from modules.parts import Part
from modules.unified import Unified, discrete, joined
from modules.unified_language_model import UnifiedLanguageModel
from modules.vocabulary import TEXT
from stages.optim import Optim
from stages.stage import Stage


class Unify(Stage):
    """Train one causal model over text tokens and the units of other modalities (as CM3, arXiv:2201.07520, and
    Chameleon, arXiv:2405.09818): next-token prediction over sequences such as `image text` and `text image`.

    Every sample takes part in each sequence whose modalities it has. Sequences share rows, each seeing itself alone.
    The loss is the mean over all tokens of all ranks, and stands in the logs divided among the kinds of sequence.

    Args:
        language_model: a part of text alone, which is grown, or one that an earlier unify left.
        tokenizers: modality -> what makes its units, trained before; they stay as they are.
        sequences: modalities in the order in which they are read, such as `[[image, text], [text, image]]`.
        max_units: modality -> at most so many units, for those whose tokenizers make no fixed number; longer is cut.
        pack_tokens: of a row that sequences share; by default as many as the longest sequence may have.
        prompt_weight: of all tokens but the last modality's, in the loss; 0 learns to answer alone.
        optim: optimiser and schedule.
        lr_factors: name prefix -> factor of the learning rate; 0 freezes.

    Raises:
        ValueError: when a sequence names a modality without a tokenizer or the same twice, a tokenizer has another
            codebook than the language model was grown for, or a sequence may not fit its positions.
    """

    def __init__(
        self,
        language_model: Part,
        tokenizers: dict[str, Part],
        sequences: list[list[str]],
        max_units: dict[str, int] | None = None,
        pack_tokens: int | None = None,
        prompt_weight: float = 1.0,
        optim: Optim | None = None,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim, lr_factors)
        if not 0 <= prompt_weight <= 1:
            raise ValueError(f"prompt_weight is {prompt_weight}, expected from 0 to 1")
        self.sequences = [tuple(sequence) for sequence in sequences]
        _check_sequences(self.sequences, (TEXT, *tokenizers))
        if not isinstance(language_model, UnifiedLanguageModel):
            language_model = _grown(language_model, tokenizers, max_units or {})
        for sequence in self.sequences:
            language_model.check_length(sequence)
        self.unified = Unified(language_model, tokenizers)
        longest = max(sum(map(language_model.longest, sequence)) for sequence in self.sequences)
        if pack_tokens is not None and pack_tokens < longest:
            raise ValueError(
                f"pack_tokens is {pack_tokens}, and a sequence has up to {longest} tokens: expected at least as many"
            )
        self.pack_tokens, self.prompt_weight = pack_tokens or longest, prompt_weight

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        used = {name for sequence in self.sequences for name in sequence}
        return {name: config for name, config in self.unified.input_configs.items() if name in used}

    def exports(self) -> dict[str, Part]:
        tokenizers = {f"tokenizers.{name}": part for name, part in self.unified.tokenizers.items()}
        return {"language_model": self.unified.language_model, **tokenizers}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        packed, kinds, answers = self._packed(batch)
        ids, segments = packed["input_ids"], packed.pop("segment_ids")
        tokens = self.unified.language_model.language_model(packed)
        real = (segments == segments.roll(-1, dims=1)) & (segments > 0)
        real[:, -1:] = False  # rolled round
        target = ids.roll(-1, dims=1)[real]
        kinds, answers = kinds.roll(-1, dims=1)[real], answers.roll(-1, dims=1)[real]
        logits = self.unified.language_model.head(tokens.features[real]).float()  # (real, ids)
        weights = torch.where(answers, 1.0, self.prompt_weight)
        terms = weights * nn.functional.cross_entropy(logits, target, reduction="none")
        total = weights.sum()
        right = (logits.argmax(1) == target) & answers
        losses, scores = {}, {}
        for kind, sequence in enumerate(self.sequences):
            name, here = "_".join(sequence), kinds == kind
            losses[name] = global_mean((terms * here).sum(), total)
            scores[f"accuracy_{name}"] = (right & here).sum() / (answers & here).sum().clamp(min=1)
        self._log("train" if self.training else "val", scores, batch)
        return losses

    def _packed(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the batch's sequences, sharing rows; of each token its kind of sequence, and whether it is judged
        in full, being of the last modality: both (rows, tokens)."""
        made = {name: self.unified.segment(name, batch.inputs[name]) for name in self.input_configs}
        found = []
        for kind, sequence in enumerate(self.sequences):
            index = _common([batch.rows[name] for name in sequence], len(batch))
            segments = [
                (made[name][0][row], made[name][1][row]) for name, row in zip(sequence, index, strict=True)
            ]
            ids, mask = joined(segments)
            about = torch.full_like(ids, 2 * kind)
            about[:, -segments[-1][0].shape[1] + 1 :] += 1  # behind the mark that the prompt ends with
            found.append((ids, mask, about))
        width = max(ids.shape[1] for ids, *_ in found)
        ids, mask, about = (
            torch.cat([nn.functional.pad(each, (0, width - each.shape[1])) for each in column])
            for column in zip(*found, strict=True)
        )
        packed = pack({"input_ids": ids, "attention_mask": mask}, self.pack_tokens)
        about = pack({"input_ids": about, "attention_mask": mask}, self.pack_tokens)["input_ids"]
        return packed, about // 2, about % 2 == 1


def _check_sequences(sequences: list[tuple[str, ...]], known: tuple[str, ...]) -> None:
    if not sequences or not all(sequences):
        raise ValueError("sequences names no modality: expected lists such as [[image, text], [text, image]]")
    for sequence in sequences:
        if unknown := set(sequence) - set(known):
            raise ValueError(
                f"sequences names {', '.join(sorted(unknown))}, and there are tokenizers for "
                f"{', '.join(known)}: add one under `tokenizers`, or leave the sequence out"
            )
        if len(set(sequence)) < len(sequence) or sequences.count(sequence) > 1:
            raise ValueError(
                f"sequences has {' '.join(sequence)}: expected every modality, and every sequence, once"
            )


def _grown(
    language_model: Part, tokenizers: dict[str, Part], max_units: dict[str, int]
) -> UnifiedLanguageModel:
    found = {name: discrete(name, part) for name, part in tokenizers.items()}
    fixed = {name: part.fixed_units for name, part in found.items() if part.fixed_units is not None}
    if clash := set(fixed) & set(max_units):
        raise ValueError(
            f"max_units names {', '.join(sorted(clash))}, whose tokenizer makes a fixed number: leave it out"
        )
    units = {name: part.num_units for name, part in found.items()}
    grown = UnifiedLanguageModel(language_model, units, {**fixed, **max_units})
    for name, part in found.items():
        if (codebook := part.codebook()) is not None:
            grown.begin_as(name, codebook)
    return grown


def _common(rows: list[Tensor], size: int) -> list[Tensor]:
    """Return, for each modality, the rows of the samples that have all of them, in the order of the samples.

    Args:
        rows: which sample each row belongs to, by modality.
        size: samples in the batch.
    """
    places = [
        torch.full((size,), -1, device=each.device).index_copy(
            0, each, torch.arange(len(each), device=each.device)
        )
        for each in rows
    ]
    here = torch.stack(places).amin(0) >= 0
    return [place[here] for place in places]
