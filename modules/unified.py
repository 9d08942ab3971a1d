"""Unified: a language model and tokenizers that share one vocabulary, to read any modality and go on in any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules import parts
from modules.encoders.discrete import DiscreteEncoder
from modules.encoders.image_tokenizer import ImageTokenizer
from modules.unified_language_model import UnifiedLanguageModel
from modules.vocabulary import TEXT


@dataclass(frozen=True)
class Sampling:
    """How the next unit is chosen."""

    temperature: float = 1.0
    """By which logits are divided; 0 takes the likeliest unit."""
    top_k: int = 0
    """Only the likeliest so many are drawn from; 0 leaves all."""
    seed: int = 0
    """Of the draw; the state of torch's own generators is left as it was."""
    guidance: float = 1.0
    """How far to go from what the model says of no prompt to what it says of this one, and beyond: 1 is the model
    as it is, above 1 keeps closer to the prompt and draws with less variety."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf") or self.top_k < 0:
            raise ValueError(
                f"temperature is {self.temperature} and top_k {self.top_k}: expected 0 or more, both"
            )
        if not 0 < self.guidance < float("inf"):
            raise ValueError(f"guidance is {self.guidance}: expected above 0, such as 1 (none) or 3")

    def flags(self) -> dict[str, Any]:
        """Return what transformers' `generate` takes for it.

        Guidance is classifier-free (arXiv:2306.17806, eq. 7, on log-probabilities): its second prompt is the last
        token of the first, the mark that a modality begins with, and so what follows is as the sequences have it
        that start with that modality.
        """
        guidance = {} if self.guidance == 1 else {"guidance_scale": self.guidance}
        if not self.temperature:
            return {"do_sample": False, **guidance}
        drawn = {"do_sample": True, "temperature": self.temperature, "top_k": self.top_k, "top_p": 1.0}
        return {**drawn, **guidance}


class Unified(nn.Module):
    """One causal model over text tokens and the units of every other modality.

    Args:
        language_model: grown for the tokenizers.
        tokenizers: modality -> what makes its units; frozen, and never trained.

    Raises:
        ValueError: when a tokenizer is no DiscreteEncoder, is missing or too much, or has another codebook than
            the language model was grown for.
    """

    def __init__(self, language_model: UnifiedLanguageModel, tokenizers: Mapping[str, parts.Part]) -> None:
        super().__init__()
        found = {name: discrete(name, part) for name, part in tokenizers.items()}
        sizes = {name: tokenizer.num_units for name, tokenizer in sorted(found.items())}
        if sizes != dict(sorted(language_model.units.items())):
            raise ValueError(
                f"the tokenizers have codebooks of {sizes}, the language model was grown for "
                f"{dict(sorted(language_model.units.items()))}: take all from one run"
            )
        self.language_model = language_model
        self.tokenizers = nn.ModuleDict(found).requires_grad_(False).eval()

    @classmethod
    def load(cls, folder: str | Path, allow: list[str] | None = None) -> "Unified":
        """Load `language_model` and every `tokenizers.<modality>` of a run's `parts/` folder.

        Raises:
            PartError: when one is missing or damaged.
            ValueError: when they are not of one run.
        """
        language_model = parts.load(str(Path(folder, "language_model")), allow)
        if not isinstance(language_model, UnifiedLanguageModel):
            raise ValueError(
                f"{folder}/language_model is a {type(language_model).__name__}, expected a UnifiedLanguageModel: "
                "name the parts/ folder of a unify run"
            )
        return cls(language_model, parts.load_all(folder, ("tokenizers",), allow)["tokenizers"]).eval()

    def train(self, mode: bool = True) -> "Unified":
        super().train(mode)
        self.tokenizers.eval()
        return self

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        """What each modality needs to know, by modality."""
        others = {name: tokenizer.input_config for name, tokenizer in self.tokenizers.items()}
        return {TEXT: self.language_model.language_model.input_config, **others}

    def numbers(self, modality: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return a modality's own numbers and mask (rows, tokens): ids of text, or units, cut at `max_units`."""
        if modality == TEXT:
            return inputs["input_ids"], inputs["attention_mask"].bool()
        numbers, mask = self.tokenizers[modality].units(inputs)
        most = self.language_model.max_units[modality]
        return numbers[:, :most], mask[:, :most]

    def segment(self, modality: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return ids of the shared vocabulary and mask (rows, tokens), marks included."""
        return self.language_model.vocabulary.segment(modality, *self.numbers(modality, inputs))

    @torch.no_grad()
    def generate(
        self,
        given: Mapping[str, Mapping[str, Tensor]],
        wanted: str,
        *,
        sampling: Sampling | None = None,
        max_units: int | None = None,
    ) -> list[Tensor]:
        """Go on in a modality after others: its own numbers for each row, (up to max_units,) int64.

        Only ids of the wanted modality can come. Where a tokenizer makes a fixed number of units, as many come;
        else they end with the modality's mark.

        Args:
            given: Inputs of the same samples, by modality, in the order in which they are read.
            wanted: modality.
            sampling: by default from all units, as likely as the model says.
            max_units: at most so many; by default as many as the model was trained for.

        Raises:
            ValueError: when a modality is not known, or prompt and answer do not fit the model.
        """
        model, sampling = self.language_model, sampling or Sampling()
        for name in (*given, wanted):
            if name not in model.vocabulary.spans:
                raise ValueError(f"'{name}' is none of {', '.join(model.vocabulary.spans)}")
        model.check_length((*given, wanted))
        fixed = None if wanted == TEXT else self.tokenizers[wanted].fixed_units
        most = fixed or min(max_units or model.longest(wanted) - 2, model.longest(wanted) - 2)
        segments = [self.segment(name, inputs) for name, inputs in given.items()]
        rows = len(segments[0][0])
        if not rows:
            return []
        segments.append(model.vocabulary.begin(wanted, rows, segments[0][0].device))
        ids, mask = to_the_right(*joined(segments))
        span = model.vocabulary.spans[wanted]
        config = model.language_model.model.config
        with torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []):
            torch.manual_seed(sampling.seed)
            said = model.language_model.model.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                max_new_tokens=most,
                **sampling.flags(),
                suppress_tokens=model.vocabulary.others(wanted, with_end=fixed is None),
                eos_token_id=span.end,
                pad_token_id=span.end if config.pad_token_id is None else config.pad_token_id,
            )[:, ids.shape[1] :]
        ended = (said == span.end).long().cumsum(1) > 0
        return [row[~stop] - span.first for row, stop in zip(said, ended, strict=True)]

    def caption(
        self, given: Mapping[str, Mapping[str, Tensor]], sampling: Sampling | None = None
    ) -> list[str]:
        """Say in words what is given, greedily unless told otherwise."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.language_model.language_model.tokenizer_json)
        said = self.generate(given, TEXT, sampling=sampling or Sampling(temperature=0))
        return [tokenizer.decode(row.tolist(), skip_special_tokens=True).strip() for row in said]

    def draw(
        self,
        given: Mapping[str, Mapping[str, Tensor]],
        sampling: Sampling | None = None,
        modality: str = "image",
    ) -> Tensor:
        """Draw what is given: pixels (rows, 3, height, width), uint8.

        Raises:
            ValueError: when no image tokenizer makes the modality.
        """
        tokenizer = dict(self.tokenizers.items()).get(modality)
        if not isinstance(tokenizer, ImageTokenizer):
            raise ValueError(
                f"nothing draws '{modality}': expected an image tokenizer among {', '.join(self.tokenizers)}"
            )
        drawn = self.generate(given, modality, sampling=sampling)
        empty = torch.zeros(0, tokenizer.grid**2, dtype=torch.int64)
        return tokenizer.pixels(torch.stack(drawn) if drawn else empty)


def discrete(name: str, part: parts.Part) -> DiscreteEncoder:
    """Return the part itself when it makes units.

    Raises:
        ValueError: when it is another kind of part.
    """
    if not isinstance(part, DiscreteEncoder):
        raise ValueError(
            f"the tokenizer of {name} is a {type(part).__name__}, expected one that makes units: "
            "ImageTokenizer, DiscreteUnits, or a DiscreteEncoder of your own"
        )
    return part


def joined(segments: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return ids and mask (rows, tokens) of segments one behind the other."""
    ids, masks = zip(*segments, strict=True)
    return torch.cat(ids, dim=1), torch.cat(masks, dim=1)


def to_the_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move real ids (rows, tokens) to the right, in order, so that every row ends in a real one."""
    order = torch.argsort(mask.long(), dim=1, stable=True)
    width = int(mask.sum(1).max())
    mask = mask.gather(1, order)
    return ids.gather(1, order).masked_fill(~mask, 0)[:, -width:], mask[:, -width:]
