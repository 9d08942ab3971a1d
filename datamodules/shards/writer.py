"""Writing shards: plain tars that appear under their names only when whole, with the same bytes each time."""

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    max_samples: int = 1000,
    max_bytes: int = 1 << 30,
) -> list[dict[str, Any]]:
    """Write samples, in order, to `000000.tar`, `000001.tar`, … and return what each shard holds.

    Args:
        samples: `{"__key__": str, "jpg": bytes, "txt": bytes, …}`.
        out_dir: made when missing.
        max_samples: in one shard.
        max_bytes: of members in one shard; a shard holds at least one sample.

    Returns:
        For each shard its `name`, `samples`, `bytes` and `sha256`.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    written: list[dict[str, Any]] = []
    pending: list[Mapping[str, Any]] = []
    pending_bytes = 0
    for sample in samples:
        size = sum(len(value) for name, value in sample.items() if name != "__key__")
        if pending and (len(pending) >= max_samples or pending_bytes + size > max_bytes):
            written.append(_write_shard(pending, out_dir / f"{len(written):06d}.tar"))
            pending, pending_bytes = [], 0
        pending.append(sample)
        pending_bytes += size
    if pending:
        written.append(_write_shard(pending, out_dir / f"{len(written):06d}.tar"))
    return written


def _write_shard(samples: list[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    import webdataset

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, mtime=0, user="root", group="root", encoder=False) as writer:
        for sample in samples:
            writer.write(dict(sample))
    data = buffer.getvalue()
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {
        "name": path.name,
        "samples": len(samples),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
