"""Writing shards: plain tars that appear under their names only when whole, with the same bytes each time."""

import hashlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from datamodules.shards.whole import whole

MAX_SAMPLES = 1000
MAX_BYTES = 1 << 30


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    max_samples: int = MAX_SAMPLES,
    max_bytes: int = MAX_BYTES,
) -> list[dict[str, Any]]:
    """Write samples, in order, to `000000.tar`, `000001.tar`, … and return what each shard holds.

    Args:
        samples: `{"__key__": str, "jpg": bytes, "txt": bytes, …}`.
        out_dir: made when missing.
        max_samples: in one shard.
        max_bytes: of members in one shard; a shard holds at least one sample.

    Returns:
        For each shard its `name`, `samples`, `bytes` and `sha256`.

    Raises:
        DiskFullError: there is no room; the shards before are whole.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    written: list[dict[str, Any]] = []
    pending: list[Mapping[str, Any]] = []
    pending_bytes = 0
    for sample in samples:
        size = num_bytes(sample)
        if pending and (len(pending) >= max_samples or pending_bytes + size > max_bytes):
            written.append(write_shard(pending, out_dir / shard_name(len(written))))
            pending, pending_bytes = [], 0
        pending.append(sample)
        pending_bytes += size
    if pending:
        written.append(write_shard(pending, out_dir / shard_name(len(written))))
    return written


def shard_name(number: int) -> str:
    """Return the file name of a set's shard, counted from 0."""
    return f"{number:06d}.tar"


def num_bytes(sample: Mapping[str, Any]) -> int:
    """Return the size of a sample's members."""
    return sum(len(value) for name, value in sample.items() if name != "__key__")


def write_shard(samples: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Write samples to one tar, member by member, and return its `name`, `samples`, `bytes` and `sha256`.

    It is what webdataset.TarWriter writes, byte for byte; importing that would import torch. Names that a plain
    header cannot hold are described in one before it (POSIX pax).

    Raises:
        DiskFullError: there is no room.
    """
    with whole(path, sum(map(_tar_bytes, samples))) as file:
        hashed = _Hashed(file)
        for sample in samples:
            for extension in sorted(sample.keys() - {"__key__"}):
                data = sample[extension]
                hashed.write(_header(f"{sample['__key__']}.{extension}", len(data)))
                hashed.write(data)
                hashed.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        hashed.write(bytes(2 * tarfile.BLOCKSIZE))
        hashed.write(bytes(-hashed.num_bytes % tarfile.RECORDSIZE))
    return {
        "name": path.name,
        "samples": len(samples),
        "bytes": hashed.num_bytes,
        "sha256": hashed.digest.hexdigest(),
    }


def _header(name: str, size: int) -> bytes:
    """Return the header of a member: the same for all but name and size."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o444
    member.uname = member.gname = "root"
    try:
        return member.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:  # the name is too long for it
        return member.tobuf(tarfile.PAX_FORMAT)


def _tar_bytes(sample: Mapping[str, Any]) -> int:
    """Return about how much of a tar a sample takes: each member has a header and is filled up to whole blocks."""
    block = tarfile.BLOCKSIZE
    return sum(block + -(-len(value) // block) * block for key, value in sample.items() if key != "__key__")


class _Hashed:
    """A file that is written to from beginning to end, with the size and hash of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.num_bytes, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.num_bytes += len(data)
        self.digest.update(data)
        return self.file.write(data)
