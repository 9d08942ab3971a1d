"""Scanning a tar: members joined to samples by key, what is damaged or unsafe left out by reason and name."""

import hashlib
import mmap
from array import array
from pathlib import Path

import numpy as np

from datamodules.shards.columns import Index, LeftOut
from datamodules.shards.names import extension_problem, label, split_name
from datamodules.shards.tar import DIRECTORY, REGULAR, Damage, LongEnd, Member, compression, walk

MAX_MEMBER_BYTES = 1 << 30
MAX_MEMBERS = 64
"""Of one sample; more are an attack on memory."""
_REPEATED, _TOO_MANY = -1, -2


def scan(tar: Path, sha256: str | None = None) -> Index:
    """Return the index of a tar as it is; a file that is no plain tar, or not the one meant, gives an empty one.

    Args:
        tar: a file.
        sha256: what it should be, in hexadecimal; None when nobody says.
    """
    if tar.stat().st_size == 0:
        return _unreadable("empty_file", tar)
    if sha256 is not None and _sha256(tar) != sha256:
        return _unreadable("checksum_differs", tar)
    with open(tar, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if name := compression(data):
            return _unreadable(
                "compressed", tar, f" ({name}): only a plain tar can be read by position; unpack it"
            )
        samples = _Samples(data)
        members = 0
        for found in walk(data):
            if isinstance(found, Damage):
                samples.damage(found)
            elif isinstance(found, LongEnd):
                samples.has_long_end = True
            else:
                samples.add(found)
                members += 1
        if not members and samples.left_out and not samples.refused:
            return _unreadable("not_a_tar", tar)
        return samples.index()


class _Samples:
    """Members as they come, joined by key wherever they lie.

    Samples are numbered as their keys first occur; the kind of a sample is what members it has so far, and the next
    member leads from one kind to another, so that each costs one look-up.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.numbers: dict[bytes, int] = {}
        self.kinds = array("i")
        self.kind_members: list[tuple[int, ...]] = [()]
        self.next_kind: dict[tuple[int, int], int] = {}
        self.extensions: dict[str, int] = {}
        self.spellings: dict[bytes, int | str] = {}
        self.member_samples, self.member_offsets, self.member_sizes = array("q"), array("q"), array("q")
        self.left_out: dict[str, LeftOut] = {}
        self.refused: set[bytes] = set()
        self.repeats: dict[int, list[tuple[int, Member]]] = {}
        self.mixed: set[int] = set()
        self.beside_damage: set[int] = set()
        self.num_unknown, self.last = 0, -1
        self.is_behind_damage, self.has_gaps, self.is_scattered = False, False, False
        self.has_long_end = False

    def add(self, member: Member) -> None:
        name, kind, offset, size = member
        key, raw_extension = split_name(name)
        if kind not in REGULAR or not key or size > MAX_MEMBER_BYTES:
            self._refuse(member, key)
            return
        extension = self.spellings.get(raw_extension)
        if extension is None:
            extension = self._learn(raw_extension)
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.kinds)
            self.kinds.append(0)
        elif number != self.last and self.last >= 0:
            self.is_scattered = True
        self.last = number
        if self.is_behind_damage:
            self.beside_damage.add(number)
            self.is_behind_damage = False
        if isinstance(extension, str):
            self._leave_out(extension, name)
            return
        before = self.kinds[number]
        after = self.next_kind.get((before, extension))
        if after is None:
            after = self._lead(before, extension)
        if after == _REPEATED:
            self._leave_out("duplicate_member", name)
            self.repeats.setdefault(number, []).append((self.kind_members[before].index(extension), member))
            return
        if after == _TOO_MANY:
            self._lose("too_many_members", name, key)
            return
        if number in self.repeats:
            self.mixed.add(number)
        self.kinds[number] = after
        self.member_samples.append(number)
        self.member_offsets.append(offset)
        self.member_sizes.append(size)

    def damage(self, damage: Damage) -> None:
        key = split_name(damage.name or b"")[0]
        if key:
            self._lose(damage.reason, damage.name or b"", key)
        else:
            self._leave_out(damage.reason, f"byte {damage.position}".encode())
            self.num_unknown += 1
        if not key and self.last >= 0:
            self.beside_damage.add(self.last)
        self.is_behind_damage = True
        self.has_gaps = True

    def _refuse(self, member: Member, key: bytes) -> None:
        if member.kind == DIRECTORY:
            return
        if member.kind in REGULAR and not key:
            self._leave_out("no_key_or_extension", member.name)
        else:
            self._lose("member_too_large" if member.kind in REGULAR else "not_a_file", member.name, key)

    def _learn(self, raw: bytes) -> int | str:
        """Return the number of an extension, or why no member has it."""
        extension = raw.decode("utf-8", "replace").lower()
        problem = extension_problem(extension)
        known: int | str = problem or ""
        if not known:
            known = self.extensions.setdefault(extension, len(self.extensions))
        self.spellings[raw] = known
        return known

    def _lead(self, before: int, extension: int) -> int:
        members = self.kind_members[before]
        if extension in members:
            after = _REPEATED
        elif len(members) == MAX_MEMBERS:
            after = _TOO_MANY
        else:
            after = len(self.kind_members)
            self.kind_members.append((*members, extension))
        self.next_kind[before, extension] = after
        return after

    def _lose(self, reason: str, name: bytes, key: bytes) -> None:
        """Leave out a member without which its sample would be half."""
        self._leave_out(reason, name)
        if key:
            self.refused.add(key)

    def _leave_out(self, reason: str, name: bytes) -> None:
        text = name[:400].decode("utf-8", "replace")[:200]
        self.left_out.setdefault(reason, LeftOut()).add("".join(c if c.isprintable() else "_" for c in text))

    def _ambiguous(self, samples: np.ndarray) -> set[int]:
        """Return the samples that occur twice, differ, and of which the second brings what the first lacks.

        Of other repeated samples and members the first is whole, and it is delivered.
        """
        found = set()
        order = np.argsort(samples, kind="stable") if self.mixed else samples
        for number in self.mixed:
            begin = np.searchsorted(samples, number, sorter=order)
            for slot, member in self.repeats[number]:
                row = order[begin + slot]
                first = self.member_offsets[row], self.member_sizes[row]
                if not _are_equal(self.data, first, (member.offset, member.size)):
                    found.add(number)
        return found

    def _half(self) -> set[int]:
        """Return the samples that may have lost members to damage: those beside it that lack what any other has.

        Where members of a sample stand apart, damage anywhere may have taken one. A sample with no other to compare
        with is half when it has a single member. The last one is beside zeros that may stand for what was lost.
        """
        may_be_cut = self.has_long_end and not self.is_scattered and self.last >= 0
        if not self.has_gaps and not may_be_cut:
            return set()
        if may_be_cut:
            self.beside_damage.add(self.last)
        numbers = range(len(self.kinds))
        refused = {self.numbers[key] for key in self.refused if key in self.numbers}
        suspects = set(numbers) if self.is_scattered else self.beside_damage
        others = set(numbers) - refused - (set() if self.is_scattered else suspects)
        expected = {
            extension for kind in {self.kinds[n] for n in others} for extension in self.kind_members[kind]
        }
        if len(others) <= self.is_scattered:
            if not self.has_gaps:
                return set()
            return {number for number in suspects if len(self.kind_members[self.kinds[number]]) < 2}
        return {n for n in suspects if not expected.issubset(self.kind_members[self.kinds[n]])}

    def index(self) -> Index:
        members = tuple(
            np.array(column, np.int64)
            for column in (self.member_samples, self.member_offsets, self.member_sizes)
        )
        half, ambiguous = self._half(), self._ambiguous(members[0])
        taken: set[str] = set()
        kept = np.zeros(len(self.kinds), dtype=bool)
        labels: list[bytes] = []
        lost = self.num_unknown + len(self.refused)
        for key, number in self.numbers.items():
            if key in self.refused:
                continue
            text = label(key)
            reason = (
                "" if not self.kinds[number]  # what it had was left out, and named there
                else "beside_damage" if number in half
                else "ambiguous_duplicate" if number in ambiguous
                else "duplicate_key" if text in taken
                else None
            )  # fmt: skip
            if reason is None:
                kept[number] = True
                taken.add(text)
                labels.append(text.encode("utf-8", "replace"))
                continue
            lost += 1
            if reason:
                self._leave_out(reason, key)
        return self._columns(members, kept, labels, lost)

    def _columns(
        self, members: tuple[np.ndarray, ...], kept: np.ndarray, labels: list[bytes], lost: int
    ) -> Index:
        samples, offsets, sizes = members
        rows = np.flatnonzero(kept[samples])
        if self.is_scattered:
            rows = rows[np.argsort(samples[rows], kind="stable")]
        extensions = list(self.extensions)
        used, kinds = np.unique(np.array(self.kinds, dtype=np.int32)[kept], return_inverse=True)
        return Index(
            kinds=kinds.astype(np.int32),
            offsets=offsets[rows],
            sizes=sizes[rows],
            key_bytes=np.frombuffer(b"".join(labels), np.uint8),
            key_ends=np.cumsum([len(text) for text in labels], dtype=np.int64),
            kind_members=[tuple(extensions[e] for e in self.kind_members[kind]) for kind in used],
            tar_bytes=len(self.data),
            left_out=self.left_out,
            lost=lost,
        )


def _unreadable(reason: str, tar: Path, detail: str = "") -> Index:
    empty = np.empty(0, np.int64)
    return Index(
        kinds=empty.astype(np.int32),
        offsets=empty,
        sizes=empty,
        key_bytes=empty.astype(np.uint8),
        key_ends=empty,
        kind_members=[],
        tar_bytes=tar.stat().st_size,
        left_out={reason: LeftOut(1, [f"{tar}{detail}"])},
        is_unreadable=True,
    )


def _are_equal(data: mmap.mmap, one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two stretches (offset, size) hold the same bytes."""
    (start, size), (second, second_size) = one, other
    step = 1 << 20
    return size == second_size and all(
        data[start + at : start + min(at + step, size)] == data[second + at : second + min(at + step, size)]
        for at in range(0, size, step)
    )


def _sha256(tar: Path) -> str:
    digest = hashlib.sha256()
    with open(tar, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
