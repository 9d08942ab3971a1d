"""Sequence packing: short texts share a row, each seeing itself alone, so that little of a batch is padding."""

import bisect
from collections.abc import Mapping, Sequence

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
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    lengths = mask.sum(1).tolist()
    rows = pack_sequences(lengths, max_tokens)
    width = max((sum(lengths[number] for number in row) for row in rows), default=1)
    begins = [0, *torch.tensor(lengths, dtype=torch.long).cumsum(0).tolist()]
    source = torch.zeros(len(rows), width, dtype=torch.long)
    segments, positions = torch.zeros_like(source), torch.zeros_like(source)
    for row, numbers in enumerate(rows):
        at = 0
        for segment, number in enumerate(numbers, start=1):
            behind = at + lengths[number]
            source[row, at:behind] = torch.arange(begins[number], begins[number + 1])
            segments[row, at:behind] = segment
            positions[row, at:behind] = torch.arange(lengths[number])
            at = behind
        positions[row, at:] = torch.arange(width - at)
    source, segments, positions = (each.to(ids.device) for each in (source, segments, positions))
    packed = ids[mask][source] if rows else ids.new_zeros(0, width)  # (rows, tokens)
    return {
        "input_ids": torch.where(segments > 0, packed, 0),
        "attention_mask": segments > 0,
        "segment_ids": segments,
        "position_ids": positions,
    }
