"""Index: where each sample's members lie in a tar, written beside it, so that any sample is one seek away."""

import json
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from datamodules.shards.errors import ShardError

VERSION = 2
BLOCK = 512
MAX_MEMBER_BYTES = 1 << 30
MAX_KEY_CHARACTERS = 512
MAX_DESCRIPTION_BYTES = 1 << 16
MAX_DESCRIPTIONS = 4
"""Headers that only describe the member behind them; a longer chain is an attack."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
UNSAFE_MEMBERS = frozenset({"pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "dill", "joblib"})
"""Members that common decoders unpickle; never delivered."""
_REGULAR, _DIRECTORY = (b"0", b"\0", b"7"), b"5"
_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_KEY = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")


@dataclass
class Index:
    """Samples of one tar: `keys[i]` has `members[i]`, extension -> (offset, size) in bytes.

    `problems` says what was left out: reason -> names.
    """

    keys: list[str] = field(default_factory=list)
    members: list[dict[str, tuple[int, int]]] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)


def index_path(tar: Path) -> Path:
    """Return where a tar's index lies."""
    return tar.with_name(tar.name + ".index")


def read_index(tar: str | Path) -> Index:
    """Read a tar's index; make it first when there is none, or the tar has changed since.

    Raises:
        ShardError: when the tar is missing or broken.
    """
    tar = Path(tar)
    if not tar.is_file():
        raise ShardError(f"no shard at {tar}: expected a tar file")
    try:
        content = json.loads(index_path(tar).read_text(encoding="utf-8"))
        if content["version"] == VERSION and content["tar"] == _identity(tar):
            members = [
                {name: (place[0], place[1]) for name, place in entry.items()} for entry in content["members"]
            ]
            return Index(content["keys"], members, content["problems"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass  # no index, or not one of ours: it is made from the tar
    return build_index(tar)


def build_index(tar: str | Path) -> Index:
    """Walk a tar's headers and write its index beside it, whole or not at all; many ranks may do so at once.

    Where the folder cannot be written to, the index is used but not kept.

    Raises:
        ShardError: when the tar is compressed, cut, or holds garbage between members.
    """
    tar = Path(tar)
    identity = _identity(tar)
    index = _Walk(tar).index()
    content = {
        "version": VERSION,
        "tar": identity,
        "keys": index.keys,
        "members": index.members,
        "problems": index.problems,
    }
    path = index_path(tar)
    # Not the process id: ranks on two machines may share one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
    return index


def _identity(tar: Path) -> dict[str, int]:
    about = tar.stat()
    return {"bytes": about.st_size, "mtime_ns": about.st_mtime_ns}


class _Walk:
    """One pass over a tar's headers."""

    def __init__(self, tar: Path) -> None:
        self.tar = tar
        self.samples: dict[str, dict[str, tuple[int, int]]] = {}
        self.problems: dict[str, list[str]] = {}
        self.refused: set[str] = set()

    def index(self) -> Index:
        size = self.tar.stat().st_size
        with open(self.tar, "rb") as file:
            self._check_plain(file)
            position, descriptions = 0, 0
            described: dict[str, str] = {}
            while position + BLOCK <= size:
                file.seek(position)
                header = file.read(BLOCK)
                if header == bytes(BLOCK):
                    return self._end(file, position, size)
                name, length, kind = self._parse(header, position)
                data = position + BLOCK
                if data + length > size:
                    raise ShardError(
                        f"{self.tar} ends inside '{name}' at byte {size}, expected {data + length}: "
                        "it was cut; copy it again"
                    )
                position = data + (length + BLOCK - 1) // BLOCK * BLOCK
                if kind in (_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL):
                    descriptions += 1
                    if length <= MAX_DESCRIPTION_BYTES:
                        file.seek(data)
                        described |= _describe(kind, file.read(length))
                    continue
                name = described.get("path", name)
                if descriptions > MAX_DESCRIPTIONS:
                    self._leave_out("header_chain", name)
                else:
                    self._note(name, kind, data, length)
                descriptions, described = 0, {}
        raise ShardError(f"{self.tar} has no end mark behind its last member: it was cut; copy it again")

    def _end(self, file: BinaryIO, position: int, size: int) -> Index:
        """Check that nothing but zeros follows: a zero block in the middle would hide all samples behind it."""
        file.seek(position)
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise ShardError(
                    f"{self.tar} holds data behind an end mark at byte {position} of {size}: "
                    "it is damaged there; write it again"
                )
        kept = {key: members for key, members in self.samples.items() if members and key not in self.refused}
        return Index(list(kept), list(kept.values()), self.problems)

    def _check_plain(self, file: BinaryIO) -> None:
        start = file.read(6)
        for magic, name in COMPRESSED.items():
            if start.startswith(magic):
                raise ShardError(
                    f"{self.tar} is compressed ({name}): expected a plain tar, which alone can be read by position; "
                    "unpack it"
                )

    def _note(self, name: str, kind: bytes, data: int, length: int) -> None:
        if kind == _DIRECTORY:
            return
        match = _KEY.match(name)
        if kind not in _REGULAR:
            self._leave_out("not_a_file", name)
        elif match is None:
            self._leave_out("no_key_or_extension", name)
        else:
            key, extension = match.group(1), match.group(2).lower()
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or len(key) > MAX_KEY_CHARACTERS:
                self._leave_out("unsafe_name", name)
            elif not UNSAFE_MEMBERS.isdisjoint(extension.split(".")):
                self._leave_out("unsafe_member", name)
            elif length > MAX_MEMBER_BYTES:
                self._leave_out("member_too_large", name)
                self.refused.add(key)
            elif extension in self.samples.setdefault(key, {}):
                self._leave_out("duplicate_member", name)
                self.refused.add(key)
            else:
                self.samples[key][extension] = (data, length)

    def _leave_out(self, reason: str, name: str) -> None:
        self.problems.setdefault(reason, []).append(name[:200])

    def _parse(self, header: bytes, position: int) -> tuple[str, int, bytes]:
        """Return name, size in bytes and type of a header block (POSIX ustar and GNU)."""
        if _number(header[148:156]) != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            raise ShardError(
                f"{self.tar} holds no tar header at byte {position}: it is damaged there; write it again"
            )
        length = _number(header[124:136])
        if length < 0:
            raise ShardError(
                f"{self.tar} says an impossible size at byte {position}: it is damaged there; write it again"
            )
        prefix = header[345:500].split(b"\0")[0] if header[257:265] == b"ustar\x0000" else b""
        name = header[:100].split(b"\0")[0]
        return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace"), length, header[156:157]


def _describe(kind: bytes, data: bytes) -> dict[str, str]:
    """Return what a header says of the next member: its `path`, where the name is too long for the member's own."""
    if kind == _GNU_NAME:
        return {"path": data.split(b"\0")[0].decode("utf-8", "replace")}
    found = {}
    while kind == _PAX and (record := re.match(rb"(\d{1,6}) ([^=]+)=", data)):  # "LENGTH KEY=VALUE\n"
        end = int(record[1])
        found[record[2].decode("utf-8", "replace")] = data[record.end() : end - 1].decode("utf-8", "replace")
        data = data[max(end, record.end()) :]
    return found


def _number(field_: bytes) -> int:
    """Return a number of a header: octal digits, or bytes behind a mark; -1 where it is neither."""
    if field_[0] & 0x80:
        return int.from_bytes(field_[1:], "big") if field_[0] == 0x80 else -1
    digits = field_.split(b"\0")[0].strip() or b"0"
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else -1
