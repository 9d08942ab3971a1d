"""Distillation: a small encoder learns to do what a large one, the teacher, does with the same inputs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from modules.collectives import global_mean
from modules.encoders.encoder import Encoder, as_encoder
from modules.encoders.tokenized_text import TEXT, tokenizer_of
from modules.language_model import LanguageModel
from modules.objectives.pretraining import PretrainingObjective
from modules.parts import Part
from modules.tokens import Tokens


class Teacher(nn.Module):
    """An encoder that is asked and never trained: no gradients, no dropout, whatever mode the stage is in.

    Args:
        part: the encoder.
        student: whose inputs it is given, the ids of texts by the student's tokenizer.

    Raises:
        ValueError: when the part is no encoder, or an id of the student's is another token of its own.
    """

    def __init__(self, part: Part, student: Encoder) -> None:
        super().__init__()
        self.encoder = as_encoder(part, "the teacher")
        _check_vocabularies(student, self.encoder)
        self.encoder.requires_grad_(False).eval()

    @property
    def dim(self) -> int:
        """Width of its features."""
        return self.encoder.dim

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        return self.encoder(inputs)


class LogitDistillation(PretrainingObjective):
    """A language model's next-token distribution brought to its teacher's (Hinton et al., arXiv:1503.02531, section 2).

    temperature^2 x KL(teacher || student) of softened distributions, the mean over real tokens.

    Args:
        encoder: the student.
        teacher: a language model over the same tokens.
        temperature: divides both sides' logits.

    Raises:
        ValueError: when one of the two is no language model, their vocabularies differ, or the temperature is not
            positive.
    """

    def __init__(self, encoder: Encoder, teacher: Part, temperature: float = 2.0) -> None:
        super().__init__()
        student, large = _language_model(encoder, "student"), _language_model(teacher, "teacher")
        if student.vocab_size != large.vocab_size:
            raise ValueError(
                f"the student has {student.vocab_size} tokens, the teacher {large.vocab_size}: "
                "distil between models with one tokenizer"
            )
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected more than 0; 1 to 4 is usual")
        self.heads = [student.head, large.head]  # in a list: the layers belong to the encoders
        self.teacher, self.temperature = Teacher(teacher, encoder), temperature

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs as they are, and the teacher's logits (rows, tokens, vocab_size)."""
        with torch.no_grad():
            return dict(inputs), self.heads[1](self.teacher(inputs).features)

    def forward(self, tokens: Tokens, target: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge every real token."""
        student = self.heads[0](tokens.features[tokens.mask])
        loss = distilled_logits(student, target[tokens.mask], self.temperature)
        return {"distilled_logits": global_mean(loss.sum(), len(loss))}, {}


class FeatureDistillation(PretrainingObjective):
    """The student's tokens, projected, brought to the teacher's (FitNets, arXiv:1412.6550, eq. 3).

    Half the squared distance, the mean over real tokens and over the teacher's width.

    Args:
        encoder: the student.
        teacher: an encoder that makes as many tokens of the same inputs.

    Raises:
        ValueError: when the teacher is no encoder, or has another vocabulary.
    """

    def __init__(self, encoder: Encoder, teacher: Part) -> None:
        super().__init__()
        self.teacher = Teacher(teacher, encoder)
        self.projection = nn.Linear(encoder.dim, self.teacher.dim)

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs as they are, and the teacher's features (rows, tokens, teacher's dim)."""
        return dict(inputs), self.teacher(inputs).features

    def forward(self, tokens: Tokens, target: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge every real token.

        Raises:
            ValueError: when the two do not make as many tokens.
        """
        if tokens.mask.shape != target.shape[:2]:
            raise ValueError(
                f"the student makes tokens {tuple(tokens.mask.shape)}, the teacher {tuple(target.shape[:2])} of the "
                "same inputs: features need one for one (same patch or frame size), relations the same"
            )
        difference = self.projection(tokens.features[tokens.mask]) - target[tokens.mask]
        loss = 0.5 * difference.float().square().mean(1)
        return {"distilled_features": global_mean(loss.sum(), len(loss))}, {}


def distilled_logits(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return temperature^2 x KL(teacher || student) for each row (rows,) of logits (rows, classes)."""
    ours = log_softmax(student.float() / temperature, dim=1)
    theirs = log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * kl_div(ours, theirs, log_target=True, reduction="none").sum(1)


def _check_vocabularies(student: Encoder, teacher: Encoder) -> None:
    """Refuse encoders of texts of which one's ids are other words to the other."""
    from tokenizers import Tokenizer

    pair = (student, teacher)
    if any(each.input_config["class_path"] != TEXT for each in pair):
        return
    ours, theirs = (Tokenizer.from_str(tokenizer_of(each, "distillation")).get_vocab() for each in pair)
    token_of = {number: token for token, number in theirs.items()}
    for token, number in sorted(ours.items(), key=lambda item: item[1]):
        if token_of.get(number) != token:
            raise ValueError(
                f"id {number} is {token!r} to the student and {token_of.get(number)!r} to the teacher: expected one "
                "vocabulary; build the student with the teacher's tokenizer.json"
            )


def _language_model(part: Part, name: str) -> LanguageModel:
    if not isinstance(part, LanguageModel):
        raise ValueError(
            f"the {name} of logits must be a modules.language_model.LanguageModel, not {type(part).__name__}"
        )
    return part
