"""Shards with one thing wrong each: made of ten good samples, with what may be delivered of them."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 512
KEYS = tuple(f"s{number:03d}" for number in range(10))
ALL = frozenset(KEYS)


def picture(key: str) -> bytes:
    """Return what stands for a picture: three blocks in which its key occurs again and again, and nothing else."""
    return (key + ":picture;").encode() * 100


def caption(key: str) -> bytes:
    return f"{key}:caption".encode()


def header(name: str, size: bytes | int, kind: bytes = b"0") -> bytes:
    """Return a GNU header, its checksum right whatever its size says."""
    block = bytearray(BLOCK)
    block[: len(name)] = name.encode()
    block[100:124] = b"0000644\x000000000\x000000000\x00"
    block[124:136] = (b"%011o" % size if isinstance(size, int) else size).ljust(12, b"\0")
    block[136:148] = b"00000000000\x00"
    block[156:157], block[257:265] = kind, b"ustar  \0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def entry(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    """Return a member: its header and its content, padded to whole blocks."""
    return header(name, len(data), kind) + data + bytes(-len(data) % BLOCK)


def sample(key: str) -> bytes:
    return entry(f"{key}.jpg", picture(key)) + entry(f"{key}.txt", caption(key))


END = bytes(2 * BLOCK)
GOOD = b"".join(map(sample, KEYS))
SAMPLE_BYTES = len(sample(KEYS[0]))


def among(extra: bytes, place: int = 5) -> bytes:
    """Return the good samples with something between them."""
    return GOOD[: place * SAMPLE_BYTES] + extra + GOOD[place * SAMPLE_BYTES :] + END


def replaced(number: int, other: bytes) -> bytes:
    """Return the good samples with another one in the place of one of them."""
    return GOOD[: number * SAMPLE_BYTES] + other + GOOD[(number + 1) * SAMPLE_BYTES :] + END


def packed(names: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT, **attributes: object) -> bytes:
    """Return a tar as Python writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@dataclass(frozen=True)
class BadShard:
    """Bytes of a tar, and what a reader must make of them.

    Args:
        data: of the tar.
        keys: of the samples that are delivered, each whole.
        reasons: by which something is left out.
        extra: members of samples that are delivered beside picture and caption: extension -> content.
        sidecar: what `NAME.tar.sha256` says.
    """

    data: bytes
    keys: frozenset[str] = ALL
    reasons: frozenset[str] = frozenset()
    extra: dict[str, bytes] = field(default_factory=dict)
    sidecar: str | None = None

    def write(self, path: Path) -> Path:
        path.write_bytes(self.data)
        if self.sidecar is not None:
            path.with_name(path.name + ".sha256").write_text(self.sidecar)
        return path


def bad(
    data: bytes, *reasons: str, without: str = "", keys: frozenset[str] = ALL, **more: object
) -> BadShard:
    return BadShard(data, keys - set(without.split()), frozenset(reasons), **more)  # type: ignore[arg-type]


def cut(at: int) -> bytes:
    return GOOD[:at]


S5 = 5 * SAMPLE_BYTES
CAPTION_5 = S5 + len(entry("s005.jpg", picture("s005")))
FROM_5 = "s005 s006 s007 s008 s009"
CHAIN = entry("././@LongLink", b"s005.jpg\0", b"L")
SCATTERED = b"".join(entry(f"{k}.jpg", picture(k)) for k in KEYS) + b"".join(
    entry(f"{k}.txt", caption(k)) for k in KEYS
)
OTHER = entry("s005.jpg", picture("other")) + entry("s005.txt", caption("other"))
HALF_LINK = entry("s005.jpg", b"", b"2") + entry("s005.txt", caption("s005"))

CASES: dict[str, Callable[[], BadShard]] = {
    # cut
    "cut in a picture": lambda: bad(cut(S5 + 700), "cut", without=FROM_5),
    "cut in a header": lambda: bad(cut(S5 + 100), "cut", without=FROM_5),
    "cut between the members of a sample": lambda: bad(
        cut(CAPTION_5), "cut", "beside_damage", without=FROM_5
    ),
    "cut in a caption": lambda: bad(cut(CAPTION_5 + BLOCK + 3), "cut", without=FROM_5),
    "cut behind a sample": lambda: bad(cut(S5), "cut", without=FROM_5),
    "cut behind a caption, before its padding ends": lambda: bad(
        cut(S5 + SAMPLE_BYTES - 400), "cut", without="s006 s007 s008 s009"
    ),
    "no end mark": lambda: bad(GOOD, "cut"),
    "half an end mark": lambda: bad(GOOD + bytes(BLOCK)),
    "cut where members stand apart": lambda: bad(
        SCATTERED[: -5 * 2 * BLOCK], "cut", "beside_damage", without=FROM_5
    ),
    # damaged inside
    "garbage between samples": lambda: bad(among(b"\xa5" * 4 * BLOCK), "damaged"),
    "garbage that is not whole blocks": lambda: bad(among(b"\xa5" * 700), "damaged", without=FROM_5),
    "a zero block between samples": lambda: bad(among(bytes(BLOCK)), "damaged"),
    "an end mark between samples, as when tars are joined": lambda: bad(among(END), "damaged"),
    "a zero block within a sample": lambda: bad(
        GOOD[:CAPTION_5] + bytes(BLOCK) + GOOD[CAPTION_5:] + END, "damaged"
    ),
    "the header of a picture lost": lambda: bad(
        GOOD[:S5] + b"\xa5" * BLOCK + GOOD[S5 + BLOCK :] + END, "damaged", "beside_damage", without="s005"
    ),
    "the header of a caption lost": lambda: bad(
        GOOD[:CAPTION_5] + bytes(BLOCK) + GOOD[CAPTION_5 + BLOCK :] + END,
        "damaged",
        "beside_damage",
        without="s005",
    ),
    "several samples lost": lambda: bad(
        GOOD[: CAPTION_5 - BLOCK]
        + b"\xa5" * 3 * SAMPLE_BYTES
        + GOOD[CAPTION_5 - BLOCK + 3 * SAMPLE_BYTES :]
        + END,
        "damaged",
        "beside_damage",
        without="s005 s006 s007 s008",
    ),
    "garbage before the first header": lambda: bad(b"\xa5" * BLOCK + GOOD + END, "damaged"),
    "garbage behind the end": lambda: bad(GOOD + END + b"\xa5" * 4000, "damaged"),
    "zeros instead of the last caption": lambda: bad(
        GOOD[: -2 * BLOCK] + bytes(24 * BLOCK), "beside_damage", without="s009"
    ),
    "zeros instead of the second half": lambda: bad(GOOD[:S5] + bytes(3 << 20), "cut", without=FROM_5),
    "a large record": lambda: bad(GOOD + bytes(1 << 20)),
    # no tar
    "an empty file": lambda: bad(b"", "empty_file", keys=frozenset()),
    "an error page": lambda: bad(b"<html>404 not found</html>\n" * 50, "not_a_tar", keys=frozenset()),
    "a short error page": lambda: bad(b"not found", "not_a_tar", keys=frozenset()),
    "compressed": lambda: bad(gzip.compress(GOOD + END), "compressed", keys=frozenset()),
    "compressed, unpacking to much": lambda: bad(
        gzip.compress(bytes(64 << 20)), "compressed", keys=frozenset()
    ),
    "an end mark alone": lambda: bad(END, keys=frozenset()),
    # sizes
    **{
        f"a size of {field!r}": lambda field=field: bad(
            replaced(
                5, header("s005.jpg", field) + picture("s005").ljust(3 * BLOCK) + sample("s005")[4 * BLOCK :]
            ),
            "impossible_size",
            without="s005",
        )
        for field in (b"-0000000001", b"\xff" * 12, b"nonsense", b"\xff" * 11 + b"\xfe")
    },
    "a size beyond the end": lambda: bad(
        replaced(5, header("s005.jpg", b"77777777777") + sample("s005")[BLOCK:]), "cut", without="s005"
    ),
    "a size beyond the end, in bytes": lambda: bad(
        replaced(5, header("s005.jpg", b"\x80" + b"\x7f" * 11) + sample("s005")[BLOCK:]),
        "cut",
        without="s005",
    ),
    "the first sample alone, then an impossible size": lambda: bad(
        sample("s000") + header("s001.jpg", b"-1") + bytes(3 * BLOCK),
        "impossible_size",
        keys=frozenset({"s000"}),
    ),
    "half a sample alone": lambda: bad(
        entry("s000.jpg", picture("s000")), "cut", "beside_damage", keys=frozenset()
    ),
    # headers that describe others
    "a chain of long names": lambda: bad(
        among(CHAIN * 1200), "header_chain", "beside_damage", without="s005"
    ),
    "a chain of long names at the end": lambda: bad(GOOD + CHAIN * 1200 + END, "header_chain"),
    "a description of a megabyte": lambda: bad(
        among(entry("././@LongLink", b"x" * (1 << 20), b"L")), "header_chain", "beside_damage", without="s005"
    ),
    "a description with a negative size": lambda: bad(
        among(header("././@PaxHeader", b"-00000000001", b"x")), "impossible_size"
    ),
    "a description that says a negative size": lambda: bad(
        among(entry("././@PaxHeader", b"12 size=-17\n", b"x")),
        "impossible_size",
        "damaged",  # the next member has no description, and could have lost it
        without="s005",
    ),
    "a sparse member": lambda: bad(
        among(entry("s100.jpg", picture("s100"), b"S") + entry("s100.txt", caption("s100"))), "not_a_file"
    ),
    "a sparse member as PAX writes it": lambda: bad(
        among(entry("./PaxHeaders/x", b"22 GNU.sparse.major=1\n", b"x") + sample("s100")), "not_a_file"
    ),
    # names
    "a picture that is a link": lambda: bad(replaced(5, HALF_LINK), "not_a_file", without="s005"),
    **{
        f"a member of kind {kind!r}": lambda kind=kind: bad(
            GOOD + entry("s100.jpg", b"", kind) + entry("s100.txt", b"", kind) + END, "not_a_file"
        )
        for kind in (b"1", b"2", b"3", b"4", b"6")
    },
    "folders and files without a key": lambda: bad(
        among(
            entry("folder/", b"", b"5")
            + entry("README", b"x")
            + entry(".hidden", b"x")
            + entry("folder.d/", b"", b"5")
        ),
        "no_key_or_extension",
    ),
    **{
        f"a member .{extension}": lambda extension=extension: bad(
            GOOD + entry(f"s009.{extension}", b"\x80\x04.") + END, "unsafe_member"
        )
        for extension in ("pyd", "PKL", "pickle.gz", "feature.Pth", "npy", "npz", "pt", "json.pkl.zst")
    },
    **{
        f"a member .{extension}": lambda extension=extension: bad(
            GOOD + entry(f"s009.{extension}", b"x") + END, "reserved_name"
        )
        for extension in ("__key__", "__url__", "__bad__", "__LOCAL_PATH__")
    },
    **{
        f"a member .{extension}": lambda extension=extension: bad(
            GOOD + entry(f"s009.{extension}", gzip.compress(bytes(1 << 20))) + END, "compressed_member"
        )
        for extension in ("txt.gz", "json.ZST", "nii.gz", "xz", "zip")
    },
    "a pickled member alone": lambda: bad(GOOD + entry("s100.pkl", b"\x80\x04.") + END, "unsafe_member"),
    "an extension of odd characters": lambda: bad(GOOD + entry("s009.a b;c", b"x") + END, "unsafe_name"),
    # more than once
    "a member twice": lambda: bad(among(entry("s004.jpg", picture("s004"))), "duplicate_member"),
    "a member twice, not alike": lambda: bad(
        replaced(5, sample("s005") + entry("s005.jpg", picture("other"))), "duplicate_member"
    ),
    "a sample twice": lambda: bad(GOOD + sample("s005") + END, "duplicate_member"),
    "two samples of one key": lambda: bad(GOOD + OTHER + END, "duplicate_member"),
    "two pictures before the caption": lambda: bad(
        replaced(5, entry("s005.jpg", picture("other")) + sample("s005")),
        "duplicate_member",
        "ambiguous_duplicate",
        without="s005",
    ),
    "the same picture twice before the caption": lambda: bad(
        replaced(5, entry("s005.jpg", picture("s005")) + sample("s005")), "duplicate_member"
    ),
    "members that stand apart": lambda: bad(SCATTERED + END),
    # checksums
    "a checksum that differs": lambda: bad(
        GOOD + END, "checksum_differs", keys=frozenset(), sidecar=hashlib.sha256(b"other").hexdigest()
    ),
    "a checksum that is none": lambda: bad(GOOD + END, "checksum_differs", keys=frozenset(), sidecar=""),
    "the right checksum": lambda: bad(
        GOOD + END, sidecar=hashlib.sha256(GOOD + END).hexdigest().upper() + "  a.tar\n"
    ),
}
