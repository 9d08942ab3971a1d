"""A walk over the headers of a plain tar: bounded, never unpacks anything, follows no link."""

from collections.abc import Iterator
from typing import NamedTuple

from datamodules.shards.shard_error import ShardError

BLOCK = 512
ZEROS = bytes(BLOCK)
REGULAR = frozenset({b"0", b"\0", b"7"})
DIRECTORY = b"5"
GNU_NAME, GNU_LINK, PAX, PAX_GLOBAL = b"L", b"K", b"x", b"g"
EXTENSIONS = frozenset({GNU_NAME, GNU_LINK, PAX, PAX_GLOBAL})
MAX_EXTENSIONS = 4  # headers that describe the next one; more in a row is an attack
MAX_EXTENSION_BYTES = 1 << 16
MAX_TAIL_BYTES = 1 << 20  # padding after the end; tar itself pads to 10 KiB
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class BrokenTar(ShardError):
    """The walk cannot go on past this place; what came before it is whole."""


class Member(NamedTuple):
    """A regular file in a tar: `size` bytes at `offset`."""

    name: str
    offset: int
    size: int
    refusal: str | None
    """Why it must not be read (a link, a device, a sparse file), or None."""


def members(tar: bytes) -> Iterator[Member]:
    """Walk over the members of `tar`, any bytes-like object that can be sliced (such as a memory map).

    Raises:
        BrokenTar: what follows is no tar (compressed, cut, garbage, sizes that cannot be). Members yielded
            before are whole.
    """
    position, extensions, described = 0, 0, {}
    for magic, name in COMPRESSED.items():
        if tar[: len(magic)] == magic:
            raise BrokenTar(f"compressed with {name}, not a plain tar")
    while True:
        header = tar[position : position + BLOCK]
        if len(header) < BLOCK:
            raise BrokenTar("cut before its end" if position else "not a tar")
        if header == ZEROS:
            return _check_tail(tar, position)
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156]):
            raise BrokenTar("garbage in place of a header" if position else "not a tar")
        kind = header[156:157]
        offset, size = position + BLOCK, _number(header[124:136])
        if kind in REGULAR and "size" in described:
            size = _pax_size(described["size"])
        if not 0 <= size <= len(tar) - offset:
            raise BrokenTar("a member's size is negative or beyond the end of the file")
        position = offset + -(-size // BLOCK) * BLOCK
        if kind in EXTENSIONS:
            extensions += 1
            if extensions > MAX_EXTENSIONS or size > MAX_EXTENSION_BYTES:
                raise BrokenTar("a chain of extension headers, or an over-large one")
            described |= _describe(kind, tar[offset : offset + size])
            continue
        name, refusal = described.get("path") or _name(header), None
        if kind not in REGULAR:
            refusal = "link, device or sparse member"
        elif any(field.startswith("GNU.sparse") for field in described):
            refusal = "sparse member"
        if kind != DIRECTORY:
            yield Member(name, offset, size, refusal)
        extensions, described = 0, {}


def _check_tail(tar: bytes, position: int) -> None:
    if len(tar) - position > MAX_TAIL_BYTES or tar[position:].strip(b"\0"):
        raise BrokenTar("data after the end-of-archive block")


def _number(field: bytes) -> int:
    """Read a tar number: octal text, or base 256 where the top bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise BrokenTar("a header's number is not octal") from None


def _pax_size(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _describe(kind: bytes, data: bytes) -> dict[str, str]:
    """Read what an extension header says of the next member: `path`, `size`, …"""
    if kind == GNU_NAME:
        return {"path": _text(data.split(b"\0")[0])}
    if kind != PAX:
        return {}
    fields = {}
    while data:  # records of the form "LENGTH key=value\n"
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or len(length) > 6 or not 0 < int(length) <= len(data):
            raise BrokenTar("a malformed pax header")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        fields[_text(key)] = _text(value)
        data = data[int(length) :]
    return fields


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
