"""ShardCache: shards of URLs as whole files on this machine, within a bound of bytes; the least recently used go."""

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.shards.columns import Index
from datamodules.shards.errors import ShardError
from datamodules.shards.index import build_index, index_path, load_index

MAX_SHARD_BYTES = 64 << 30
_MAX_INDEX_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20


class ShardCache:
    """Fetches whole shards when they are first read. Ranks and workers of one machine share a folder.

    A shard stands under its name only when it is whole. Indices stay when their shards go, so that a set is opened
    again without fetching. A URL is taken to name the same bytes for ever: when a shard comes with another size than
    its index says, it is refused.

    Args:
        folder: on a local disk.
        max_bytes: of all shards in it; a single one may be larger.
        timeout_s: of one answer of the server; a fetch that brings nothing for so long is given up.
        tries: of one fetch, with pauses of 1, 2, 4, … seconds.
    """

    def __init__(
        self, folder: str | Path, max_bytes: int = 100 << 30, timeout_s: float = 60.0, tries: int = 3
    ) -> None:
        if max_bytes < 1 or timeout_s <= 0 or tries < 1:
            raise ValueError(
                f"max_bytes is {max_bytes}, timeout_s {timeout_s}, tries {tries}: "
                "expected at least 1, more than 0, and at least 1"
            )
        self.folder, self.max_bytes, self.timeout_s, self.tries = Path(folder), max_bytes, timeout_s, tries

    def path(self, url: str) -> Path:
        """Return where the shard of a URL lies, or would."""
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"

    def index(self, url: str, sha256: str | None = None) -> Index:
        """Return the index of a shard: the cached one, else the server's own beside the shard, else one made of it.

        Raises:
            ShardError: when the shard cannot be fetched.
        """
        path = index_path(self.path(url))
        index = load_index(path)
        if index is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            index = self._fetch_index(url, path)
        return build_index(self.fetch(url), sha256) if index is None else index

    def fetch(self, url: str) -> Path:
        """Return the file of a shard, fetched first where it is not there.

        Raises:
            ShardError: when it cannot be fetched, is too large, or has changed.
        """
        path = self.path(url)
        if _touch(path):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if not _touch(path):  # another process may have fetched it while this one waited
                self._download(url, path)
        return path

    def _download(self, url: str, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            for attempt in range(self.tries):
                try:
                    self._copy(url, temporary)
                    break
                except ShardError:
                    raise
                except Exception as error:  # every file system raises errors of its own kind
                    if attempt + 1 == self.tries or isinstance(error, FileNotFoundError):
                        raise ShardError(
                            f"{url} cannot be fetched ({type(error).__name__}: {error}), tried {attempt + 1} times: "
                            "look at the address, the network and the credentials"
                        ) from error
                    time.sleep(2**attempt)
            size = temporary.stat().st_size
            index = load_index(index_path(path))
            if index is not None and index.tar_bytes != size:
                raise ShardError(
                    f"{url} has {size} bytes, its index says {index.tar_bytes}: the shard has changed; "
                    f"empty the cache at {self.folder}"
                )
            self._make_room(size)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _copy(self, url: str, path: Path) -> None:
        import fsspec

        with fsspec.open(url, "rb", **self._options(url)) as remote, open(path, "wb") as local:
            size = getattr(remote, "size", None)
            limit = MAX_SHARD_BYTES if size is None else min(size, MAX_SHARD_BYTES)
            copied = 0
            while block := remote.read(_CHUNK_BYTES):
                copied += len(block)
                if copied > limit:
                    raise ShardError(
                        f"{url} is larger than {limit} bytes: expected a shard of a size that it says"
                    )
                local.write(block)
            if size is not None and copied != size:
                raise OSError(f"{copied} of {size} bytes came")

    def _fetch_index(self, url: str, path: Path) -> Index | None:
        """Take over the index that lies beside a shard; None where there is none."""
        import fsspec

        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            files, name = fsspec.core.url_to_fs(url, **self._options(url))
            with files.open(f"{name}.index", "rb") as remote:
                temporary.write_bytes(remote.read(_MAX_INDEX_BYTES))
            index = load_index(temporary, tar_bytes=files.size(name))
            if index is not None:
                os.replace(temporary, path)
            return index
        except Exception:  # of any kind: then the index is made of the shard, and what is wrong shows there
            return None
        finally:
            temporary.unlink(missing_ok=True)

    def _options(self, url: str) -> dict[str, Any]:
        if not url.startswith(("http://", "https://")):
            return {}
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout_s, sock_read=self.timeout_s)
        return {"client_kwargs": {"timeout": timeout}, "block_size": 4 * _CHUNK_BYTES}

    def _make_room(self, size: int) -> None:
        """Remove the shards that were used longest ago; one that is mapped stays readable to who has it mapped."""
        shards = []
        for path in self.folder.glob("*.tar"):
            with contextlib.suppress(OSError):
                about = path.stat()
                shards.append((about.st_atime_ns, about.st_size, path))
        total = size + sum(held for _, held, _ in shards)
        for _, held, path in sorted(shards):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= held


def _touch(path: Path) -> bool:
    """Note the time of use as that of access, the time of change staying; tell whether the file is there."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this machine; it is let go when the process ends, however it does."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
