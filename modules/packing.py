"""Sequence packing: short texts share a row, each seeing itself alone, so that little of a batch is padding."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def pack_sequences(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Share sequences out to rows, by best-fit decreasing (Johnson 1973): at most 11/9 of the fewest rows, and one.

    As for language models in arXiv:2107.02027. Each sequence, the longest first, goes to the row that it leaves least
    room in; sequences of no token are left out.

    Args:
        lengths: tokens of each sequence.
        max_tokens: of a row.

    Returns:
        For each row the numbers of its sequences, ascending.

    Raises:
        ValueError: when a sequence is longer than a row.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens that are free, row), ascending
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        length = lengths[number]
        if length > max_tokens:
            raise ValueError(
                f"a sequence has {length} tokens, a row takes {max_tokens}: cut it, or take longer rows"
            )
        if length == 0:
            continue
        place = bisect.bisect_left(rooms, (length, -1))
        if place == len(rooms):
            rows.append([number])
            bisect.insort(rooms, (max_tokens - length, len(rows) - 1))
        else:
            free, row = rooms.pop(place)
            rows[row].append(number)
            bisect.insort(rooms, (free - length, row))
    return [sorted(row) for row in rows]


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of texts (texts, tokens) stand in rows (rows, width) that several texts share.

    Args:
        source: (rows, width), which of the texts' places, counted text by text, stands here; 0 where none does.
        place: (texts, tokens), the other way round: which of the rows' places holds this token; 0 for padding.
        segment_ids: (rows, width), from 1 in each row; 0 is padding.
        position_ids: (rows, width), from 0 in each text, and in the padding behind.
    """

    source: Tensor
    place: Tensor
    segment_ids: Tensor
    position_ids: Tensor

    def to(self, device: torch.device) -> "Packing":
        """Return the same on a device."""
        return Packing(
            *(each.to(device) for each in (self.source, self.place, self.segment_ids, self.position_ids))
        )

    def packed(self, values: Tensor) -> Tensor:
        """Return values (texts, tokens) as (rows, width), 0 where no text is."""
        return torch.where(self.segment_ids > 0, values.flatten()[self.source], 0)

    def attends(self) -> Tensor:
        """Return (rows, width, width), True where a token may see another of its text, itself or an earlier one."""
        same = self.segment_ids.unsqueeze(2) == self.segment_ids.unsqueeze(1)
        return same.tril()


def packing(mask: Tensor, max_tokens: int) -> Packing:
    """Plan how texts are packed, on the CPU.

    Args:
        mask: (texts, tokens) bool, True where a token is real.
        max_tokens: of a row; the rows are as wide as the fullest of them.

    Raises:
        ValueError: when a text is longer than a row.
    """
    mask = mask.cpu()
    lengths = mask.sum(1)
    rows = pack_sequences(lengths.tolist(), max_tokens)
    order = torch.tensor([text for row in rows for text in row], dtype=torch.long)
    per_row = torch.tensor([len(row) for row in rows], dtype=torch.long)
    row_of = torch.arange(len(rows)).repeat_interleave(
        per_row
    )  # of each text, as is all until the next comment
    ordered, begins = lengths[order], lengths.cumsum(0) - lengths
    filled = torch.zeros(len(rows), dtype=torch.long).index_add(0, row_of, ordered)
    column = ordered.cumsum(0) - ordered - (filled.cumsum(0) - filled)[row_of]
    segment = torch.arange(1, len(order) + 1) - (per_row.cumsum(0) - per_row)[row_of]
    # Of each token, text by text in the order of the rows.
    position = torch.arange(int(ordered.sum())) - (ordered.cumsum(0) - ordered).repeat_interleave(ordered)
    row, column = row_of.repeat_interleave(ordered), column.repeat_interleave(ordered) + position
    number = begins[order].repeat_interleave(ordered) + position  # among all real tokens
    width = int(filled.max()) if rows else 1
    shape = len(rows), width
    source, segment_ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    source[row, column] = mask.flatten().nonzero().squeeze(1)[number]
    segment_ids[row, column] = segment.repeat_interleave(ordered)
    position_ids = (torch.arange(width) - filled.unsqueeze(1)).clamp(min=0)
    position_ids[row, column] = position
    place = torch.zeros(mask.shape, dtype=torch.long)
    place.view(-1)[source[row, column]] = row * width + column
    return Packing(source, place, segment_ids, position_ids)


def pack(inputs: Mapping[str, Tensor], max_tokens: int) -> dict[str, Tensor]:
    """Pack texts, padded to one length, into rows of several texts each.

    Args:
        inputs: `input_ids` and `attention_mask` (texts, tokens).
        max_tokens: of a row; the rows are as long as the fullest of them.

    Returns:
        `input_ids`, `attention_mask` (bool), `segment_ids` (from 1 in each row; 0 is padding) and `position_ids` (from
        0 in each text, and in the padding behind), all (rows, tokens).

    Raises:
        ValueError: when a text is longer than a row.
    """
    ids = inputs["input_ids"]
    plan = packing(inputs["attention_mask"].bool(), max_tokens).to(ids.device)
    return {
        "input_ids": plan.packed(ids),
        "attention_mask": plan.segment_ids > 0,
        "segment_ids": plan.segment_ids,
        "position_ids": plan.position_ids,
    }
