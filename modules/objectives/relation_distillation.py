"""RelationDistillation: a small transformer's attention learns to relate tokens as its teacher's does (MiniLM)."""

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from modules.collectives import global_mean
from modules.encoders.encoder import Encoder
from modules.objectives.distillation import Teacher
from modules.objectives.pretraining import PretrainingObjective
from modules.parts import Part
from modules.tokens import Tokens


class RelationDistillation(PretrainingObjective):
    """One layer's attention relations brought to the teacher's: MiniLMv2 (arXiv:2012.15828, eq. 5 to 7).

    Queries, keys and values of all heads are joined and split anew into `num_heads` relation heads, so that student and
    teacher may differ in width and heads. A relation is the softmax over real tokens of scaled products, such as
    query with query; its loss is KL(teacher || student), the mean over relation heads and real tokens. MiniLM
    (arXiv:2002.10957, eq. 5 to 8) is `relations: [[query, key], [value, value]]` with equal heads.

    Args:
        encoder: the student.
        teacher: an encoder that makes as many tokens of the same inputs.
        student_projections: names of its layer's query, key and value modules, or of one that gives all three
            side by side, such as `trunk.layers.5.attn.Wqkv`. MiniLM takes the last layer.
        teacher_projections: the teacher's; MiniLMv2 takes an upper middle layer of a large teacher.
        num_heads: relation heads; must divide both widths.
        relations: pairs of query, key, value.

    Raises:
        ValueError: when the teacher has another vocabulary, a module is not there, or a relation names something else;
            in use, when widths do not divide.
    """

    def __init__(
        self,
        encoder: Encoder,
        teacher: Part,
        student_projections: list[str],
        teacher_projections: list[str],
        num_heads: int = 12,
        relations: Sequence[tuple[str, str]] = (("query", "query"), ("key", "key"), ("value", "value")),
    ) -> None:
        super().__init__()
        named = {name for pair in relations for name in pair}
        if not named or not named <= set(Projections.names):
            raise ValueError(
                f"relations are pairs of {', '.join(Projections.names)}, found {list(relations)}"
            )
        self.teacher, self.num_heads = Teacher(teacher, encoder), num_heads
        self.relations = [tuple(pair) for pair in relations]
        self.students = Projections(encoder, student_projections)
        self.teachers = Projections(teacher, teacher_projections)

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the inputs as they are, and the teacher's query, key and value, each (rows, tokens, width)."""
        rows = len(self.teacher(inputs))
        return dict(inputs), self.teachers.take(rows)

    def forward(
        self, tokens: Tokens, target: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge every real token's relations."""
        student, mask = self.students.take(len(tokens)), tokens.mask
        extra = student["query"].shape[1] - mask.shape[1]
        mask = nn.functional.pad(
            mask, (extra, 0), value=True
        )  # class tokens stand before those that are returned
        losses = {}
        for first, second in self.relations:
            ours = attention_relation(student[first], student[second], mask, self.num_heads)
            theirs = attention_relation(target[first], target[second], mask, self.num_heads)
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"relations of the student are {tuple(ours.shape)}, of the teacher {tuple(theirs.shape)}: "
                    "expected as many tokens of the same inputs"
                )
            by_token = kl_div(ours, theirs, log_target=True, reduction="none").sum(3).mean(1)[mask]
            losses[f"relation_{first}_{second}"] = global_mean(by_token.sum(), len(by_token))
        return losses, {}


class Projections:
    """Listens to an attention layer for the query, key and value of its last forward.

    Args:
        encoder: holds the layer.
        modules: names of three modules, or of one whose output is the three side by side.

    Raises:
        ValueError: when there are neither three nor one, or one is not there.
    """

    names = ("query", "key", "value")

    def __init__(self, encoder: nn.Module, modules: list[str]) -> None:
        if len(modules) not in (1, 3):
            raise ValueError(
                f"found {len(modules)} modules, expected query, key and value, or one that gives all: {modules}"
            )
        known = dict(encoder.named_modules())
        self.heard: dict[str, Tensor] = {}
        for place, module in enumerate(modules):
            if module not in known:
                near = ", ".join(difflib.get_close_matches(module, known, n=3, cutoff=0.3))
                raise ValueError(f"{type(encoder).__name__} has no module {module}; did you mean {near}?")
            targets = self.names if len(modules) == 1 else self.names[place : place + 1]
            known[module].register_forward_hook(
                lambda _module, _inputs, output, targets=targets: self.heard.update(
                    zip(targets, output.chunk(len(targets), dim=-1), strict=True)
                )
            )

    def take(self, rows: int) -> dict[str, Tensor]:
        """Return what was heard last, each (rows, tokens, width), and forget it."""
        heard, self.heard = self.heard, {}
        return {name: tensor[:rows] for name, tensor in heard.items()}


def attention_relation(first: Tensor, second: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Return the log-softmax over tokens of scaled products: (rows, num_heads, tokens, tokens).

    Args:
        first: (rows, tokens, width).
        second: (rows, tokens, width).
        mask: (rows, tokens), bool; only real tokens are related to.
        num_heads: relation heads that the width is split into.

    Raises:
        ValueError: when the width does not divide.
    """
    width = first.shape[2]
    if width % num_heads:
        raise ValueError(
            f"a width of {width} does not divide into {num_heads} relation heads: choose another number"
        )
    heads = [tensor.unflatten(2, (num_heads, -1)).transpose(1, 2).float() for tensor in (first, second)]
    scores = heads[0] @ heads[1].transpose(2, 3) / (width / num_heads) ** 0.5
    # Not -inf: the product with a probability of zero would be NaN in the divergence.
    return log_softmax(scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min), dim=3)
