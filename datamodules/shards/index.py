"""Index: where each sample's members lie in a tar, kept beside it as columns, so that any sample is one seek away."""

import json
import os
import secrets
from pathlib import Path

import numpy as np

from datamodules.shards.columns import COLUMNS, Index, LeftOut
from datamodules.shards.errors import ShardError
from datamodules.shards.names import is_safe
from datamodules.shards.scan import scan

VERSION = "3"


def index_path(tar: Path) -> Path:
    """Return where a tar's index lies."""
    return tar.with_name(tar.name + ".index")


def read_index(tar: str | Path, sha256: str | None = None) -> Index:
    """Read a tar's index; make it first when there is none, or the tar has changed since.

    Args:
        tar: a file.
        sha256: what its manifest says; compared when the index is made.

    Raises:
        ShardError: when the tar is missing.
    """
    tar = Path(tar)
    if not tar.is_file():
        raise ShardError(f"no shard at {tar}: expected a tar file")
    about = tar.stat()
    index = load_index(index_path(tar), tar_bytes=about.st_size, mtime_ns=about.st_mtime_ns)
    return build_index(tar, sha256) if index is None else index


def build_index(tar: str | Path, sha256: str | None = None) -> Index:
    """Walk a tar's headers and write its index beside it, whole or not at all; many ranks may do so at once.

    What is damaged is left out of it, by reason and name. Where the folder cannot be written to, the index is used
    but not kept. The checksum is compared with `sha256`, or with `NAME.tar.sha256` where that lies beside the tar.
    """
    tar = Path(tar)
    before = tar.stat()
    index = scan(tar, sha256 or _sidecar(tar))
    after = tar.stat()
    if (before.st_size, before.st_mtime_ns) == (
        after.st_size,
        after.st_mtime_ns,
    ):  # nobody is writing it still
        save_index(index, index_path(tar), mtime_ns=before.st_mtime_ns)
    return index


def save_index(index: Index, path: Path, *, mtime_ns: int) -> None:
    """Write an index under its name when it is whole; nothing where the folder cannot be written to."""
    from safetensors.numpy import save

    about = {
        "tar_bytes": index.tar_bytes,
        "mtime_ns": mtime_ns,
        "kind_members": index.kind_members,
        "left_out": {reason: [out.count, out.names] for reason, out in index.left_out.items()},
        "lost": index.lost,
        "is_unreadable": index.is_unreadable,
    }
    columns = {name: getattr(index, name) for name in COLUMNS}
    data = save(columns, metadata={"version": VERSION, "about": json.dumps(about)})
    # Not the process id: ranks on two machines may share one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)


def load_index(path: Path, *, tar_bytes: int | None = None, mtime_ns: int | None = None) -> Index | None:
    """Return an index file's content; None when there is none, or it is not of this tar, or not a sound one.

    Args:
        path: of the index.
        tar_bytes: size of the tar; None where the tar itself is not at hand.
        mtime_ns: when the tar was last changed; None for one that was copied since.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("version") != VERSION:
                return None
            about = json.loads(metadata["about"])
            if tar_bytes not in (None, about["tar_bytes"]) or mtime_ns not in (None, about["mtime_ns"]):
                return None
            # Each member has a header of 512 bytes in the tar: an index cannot be much larger.
            if path.stat().st_size > about["tar_bytes"] + (1 << 20):
                return None
            columns = {name: file.get_tensor(name) for name in COLUMNS}
        index = Index(
            **columns,
            kind_members=[tuple(members) for members in about["kind_members"]],
            tar_bytes=about["tar_bytes"],
            left_out={reason: LeftOut(count, names) for reason, (count, names) in about["left_out"].items()},
            lost=int(about["lost"]),
            is_unreadable=bool(about["is_unreadable"]),
        )
        return index if _is_sound(index) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None  # no index, or not one of ours: it is made from the tar


def _is_sound(index: Index) -> bool:
    """Tell whether an index points into its tar and nowhere else; anyone may have written it."""
    if any(
        column.dtype != dtype or column.ndim != 1
        for column, dtype in ((getattr(index, name), dtype) for name, dtype in COLUMNS.items())
    ):
        return False
    members = [extension for kind in index.kind_members for extension in kind]
    if not all(isinstance(extension, str) and is_safe(extension) for extension in members):
        return False
    kinds, ends = index.kinds, index.key_ends
    if len(ends) != len(kinds) or (
        len(kinds) and not 0 <= kinds.min() <= kinds.max() < len(index.kind_members)
    ):
        return False
    lengths = np.diff(ends, prepend=0)
    return bool(
        len(index.offsets) == len(index.sizes) == index.starts[-1]
        and (index.offsets >= 0).all()
        and (index.sizes >= 0).all()
        and (index.sizes <= index.tar_bytes - index.offsets).all()
        and (lengths > 0).all()
        and (ends[-1] if len(ends) else 0) == len(index.key_bytes)
    )


def _sidecar(tar: Path) -> str | None:
    """Return what `NAME.tar.sha256` says, as `sha256sum` writes it."""
    path = tar.with_name(tar.name + ".sha256")
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return (file.read(4096).split() or ["nothing"])[0].lower()
    except OSError:
        return None
