"""Walking a tar's headers: where each member lies and where the file is damaged, without reading what members hold.

A header is one block of 512 bytes with a checksum of its own (POSIX ustar, GNU). The next one is found by the size
that this one says, so one bad block would hide all that follows; the walk goes on at the next block that is a header.
"""

import re
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

import numpy as np

BLOCK = 512
MAX_DESCRIPTION_BYTES = 1 << 16
MAX_DESCRIPTIONS = 4
"""Headers that only describe the member behind them; a longer chain is an attack."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
REGULAR, DIRECTORY = frozenset({b"0", b"\0", b"7"}), b"5"
_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_DESCRIPTIONS = frozenset({_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL})
_AT_ONCE = 2048
_AT_ONCE_BEHIND_DAMAGE = 16
"""Headers or blocks, doubled each time: where damage follows on damage, little is looked at in vain."""
_USUAL_END_BYTES, _LONGEST_END_BYTES = 21 * BLOCK, 2 << 20
"""Of zeros at the end of a tar: two blocks in a record of 10 KiB, or in one as large as anyone sets it."""
_OCTAL = 8 ** np.arange(5, -1, -1, dtype=np.int64)
_ZERO = bytes(BLOCK)


class Member(NamedTuple):
    """A member that is whole.

    Args:
        name: as it stands in the tar; may be anything.
        kind: type flag of its header; one of `REGULAR` is a file.
        offset: of its content, in bytes.
        size: of its content, in bytes.
    """

    name: bytes
    kind: bytes
    offset: int
    size: int


class Damage(NamedTuple):
    """A place from where on something is lost.

    Args:
        position: byte of the block that is not as expected.
        reason: to count by.
        name: of the one member that is lost there; None where it is not known what is.
    """

    position: int
    reason: str
    name: bytes | None


class LongEnd(NamedTuple):
    """More zeros at the end than usual: a large record, or what stood there is lost."""

    position: int


class _Header(NamedTuple):
    block: bytes
    position: int
    size: int


def compression(data: "bytes | mmap") -> str | None:
    """Return what a file that is no tar is compressed with, None when it is not."""
    start = data[:BLOCK]
    if has_checksum(start):
        return None
    return next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)


def walk(data: "bytes | mmap") -> Iterator[Member | Damage | LongEnd]:
    """Yield the members of a tar in order, and the places where it is damaged.

    Checksums are taken of many headers at once: of one alone it would cost more than all the rest.
    """
    position, end = 0, len(data)
    described: dict[str, bytes] = {}
    descriptions, is_lost = 0, False
    has_descriptions, is_behind_gap = False, False
    at_once = _AT_ONCE_BEHIND_DAMAGE
    while True:
        headers, position, stop = _chain(data, position, at_once)
        at_once = min(2 * at_once, _AT_ONCE)
        right = _count_right(headers)
        for block, start, size in headers[:right]:
            kind, offset = block[156:157], start + BLOCK
            if kind in _DESCRIPTIONS:
                descriptions += 1
                has_descriptions = True
                # Behind an over-large description the true name of its member is not known.
                is_lost |= descriptions > MAX_DESCRIPTIONS or size > MAX_DESCRIPTION_BYTES
                if not is_lost:
                    described |= _describe(kind, data[offset : offset + size])
                continue
            name = described.get("path") or _name(block)
            if is_lost:
                yield Damage(start, "header_chain", None)  # its true name is in a header that was not read
            elif is_behind_gap and has_descriptions and not descriptions:
                yield Damage(start, "damaged", None)  # its true name may have stood in the gap
            else:
                yield Member(name, b"S" if "sparse" in described else kind, offset, size)
            is_behind_gap = False
            if descriptions:
                described, descriptions, is_lost = {}, 0, False
        if right == len(headers) and not stop:
            continue
        if right < len(headers):
            damage = Damage(headers[right].position, "damaged", None)
        elif stop == "end":
            if descriptions:
                yield Damage(position, "header_chain" if is_lost else "cut", None)
            elif end - position > _LONGEST_END_BYTES:
                yield Damage(position, "cut", None)
            elif end - position > _USUAL_END_BYTES:
                yield LongEnd(position)
            return
        elif stop == "zeros":
            damage = Damage(position, "damaged", None)
        elif position + BLOCK > end:
            yield Damage(position, "cut", described.get("path"))
            return
        else:  # a header that says an impossible size: where it is one, the lost member has a name
            block = data[position : position + BLOCK]
            is_header = has_checksum(block)
            name = described.get("path") or _name(block)
            is_known = is_header and block[156:157] not in _DESCRIPTIONS
            damage = Damage(position, stop if is_header else "damaged", name if is_known else None)
        yield damage
        described, descriptions, is_lost, is_behind_gap = {}, 0, False, True
        at_once = _AT_ONCE_BEHIND_DAMAGE
        found = _next_header(data, damage.position + BLOCK)
        if found is None:
            return
        position = found


def _chain(data: "bytes | mmap", position: int, at_once: int) -> tuple[list[_Header], int, str]:
    """Follow the sizes of headers, unchecked: headers, position behind the last, and why the chain ends, if it does."""
    headers: list[_Header] = []
    end, described_size = len(data), None
    while len(headers) < at_once or (described_size is not None and len(headers) < 2 * at_once):
        block = data[position : position + BLOCK]
        if len(block) < BLOCK:
            return headers, position, "cut"
        try:
            size = int(block[124:135], 8) if block[135] in b"\0 " else _number(block[124:136])
        except ValueError:
            if block == _ZERO:
                return headers, position, "end" if _is_zero(data, position) else "zeros"
            size = _number(block[124:136])
        kind = block[156]
        if kind == 120:  # a PAX header: the size of a member over 8 GiB stands there
            described_size = _pax_size(data[position + BLOCK : position + BLOCK + min(size, 1 << 16)])
        elif described_size is not None and kind not in b"gLK":
            size, described_size = described_size, None
        behind = position + BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
        if size < 0:
            return headers, position, "impossible_size"
        if position + BLOCK + size > end:
            return headers, position, "cut"
        headers.append(_Header(block, position, size))
        position = behind
    return headers, position, ""


def _count_right(headers: list[_Header]) -> int:
    """Return how many headers from the first on have the checksum that they say."""
    if not headers:
        return 0
    blocks = np.frombuffer(b"".join([header.block for header in headers]), np.uint8).reshape(-1, BLOCK)
    sums = blocks.sum(axis=1, dtype=np.int64) - blocks[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    digits = blocks[:, 148:154] - np.uint8(ord("0"))
    is_right = (digits < 8).all(axis=1) & (digits.astype(np.int64) @ _OCTAL == sums)
    for row in np.flatnonzero(~is_right):
        if not has_checksum(headers[row].block):
            return int(row)
    return len(headers)


def has_checksum(block: bytes) -> bool:
    """Tell whether a block is a header, by its checksum; old writers summed signed bytes."""
    if len(block) < BLOCK or not any(block):
        return False
    said = _number(block[148:156])
    rest = block[:148] + block[156:]
    unsigned = sum(rest) + 8 * ord(" ")
    return said in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def _next_header(data: "bytes | mmap", position: int) -> int | None:
    """Return the first block from a position on that is a header and leads to another one, or to the end."""
    at_once = _AT_ONCE_BEHIND_DAMAGE
    while position + BLOCK <= len(data):
        count = min(at_once, (len(data) - position) // BLOCK)
        at_once = min(2 * at_once, _AT_ONCE)
        blocks = np.frombuffer(data[position : position + count * BLOCK], np.uint8).reshape(-1, BLOCK)
        field = blocks[:, 148:156]  # digits, spaces and NUL, and not of NUL alone
        is_likely = ((field - np.uint8(ord("0")) < 8) | (field == 32) | (field == 0)).all(axis=1)
        for row in np.flatnonzero(is_likely & field.any(axis=1)):
            start = position + int(row) * BLOCK
            if has_checksum(blocks[row].tobytes()) and _leads_on(data, start):
                return start
        position += count * BLOCK
    return None


def _leads_on(data: "bytes | mmap", position: int) -> bool:
    """Tell whether a member ends where another header, an end mark or the end of the file is.

    So a header that strayed into another member's content is not taken for one.
    """
    size = _number(data[position + 124 : position + 136])
    behind = position + BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
    following = data[behind : behind + BLOCK]
    return size >= 0 and (behind == len(data) or following == _ZERO or has_checksum(following))


def _is_zero(data: "bytes | mmap", position: int) -> bool:
    step = 1 << 13
    while position < len(data):
        if data[position : position + step].strip(b"\0"):
            return False
        position += step
        step = min(2 * step, 1 << 20)
    return True


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:265] == b"ustar\x0000" else b""
    return prefix + b"/" + name if prefix else name


def _describe(kind: bytes, data: bytes) -> dict[str, bytes]:
    """Return what a header says of the next member: `path`, where its name is too long for its own; `sparse`."""
    if kind == _GNU_NAME:
        return {"path": data.split(b"\0")[0]}
    found = {}
    while kind == _PAX and (record := re.match(rb"(\d{1,6}) ([^=]+)=", data)):  # "LENGTH KEY=VALUE\n"
        end = int(record[1])
        if record[2] == b"path":
            found["path"] = data[record.end() : end - 1].replace(b"\0", b"")
        elif record[2].startswith(b"GNU.sparse"):
            found["sparse"] = b""  # its content is not its bytes
        data = data[max(end, record.end()) :]
    return found


def _pax_size(data: bytes) -> int | None:
    record = re.search(rb"(?:^|\n)\d{1,3} size=([^\n]*)\n", data)
    if record is None:
        return None
    return int(record[1]) if re.fullmatch(rb"\d{1,18}", record[1]) else -1


def _number(field: bytes) -> int:
    """Return a number of a header: octal digits, or bytes behind a mark; -1 where it is neither."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.split(b"\0")[0].strip() or b"0"
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else -1
