"""The map of a checkpoint of shards: which piece of which tensor lies where, read from a pickle that is not trusted.

torch writes it as `.metadata` and unpickles it without restriction. Here it may only name what torch puts there, and
nothing that it names is imported or called.
"""

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch

METADATA: Final = ".metadata"
MAX_METADATA_BYTES: Final = 1 << 29
NAMED: Final = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
"""What torch's `.metadata` names, by module."""


class ShardsError(ValueError):
    """A directory that is no whole, plain checkpoint of shards."""


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, or a plain value, and where it lies."""

    file: Path
    offset: int
    length: int
    begin: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Described:
    """What is said of a tensor: its shape, its dtype and its pieces, which make all of it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: list[Piece]


def read_map(folder: Path) -> tuple[dict[str, Described], dict[str, Piece]]:
    """Return the tensors and the plain values that a directory says it holds, by name; none of them is read.

    Raises:
        ShardsError: when it says anything but tensors and values that lie in its own files.
    """
    metadata = _read_metadata(folder / METADATA)
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if not file.is_symlink()}
    tensors: dict[str, Described] = {}
    values: dict[str, Piece] = {}
    try:
        places = {
            (index.fqn, _offset(index)): _place(folder, sizes, info)
            for index, info in metadata.storage_data.items()
        }
        for name, about in metadata.state_dict_metadata.items():
            if not isinstance(name, str):
                raise ShardsError(f"a tensor is called {name!r}")
            if about.kind == "BytesStorageMetadata":
                values[name] = places[name, None]
            else:
                tensors[name] = _described(name, about, places)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ShardsError):
            raise
        raise ShardsError(f"its {METADATA} is not as torch writes it ({one_line(error)})") from error
    return tensors, values


def one_line(error: BaseException) -> str:
    """Return the first sentence of what an error says."""
    return " ".join(str(error).split()).split(". ")[0][:200]


class _Record:
    """Stands for an object of torch's: the name of its class and what it holds."""

    kind = ""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Plain(pickle.Unpickler):
    """Reads a pickle that names nothing but what torch's `.metadata` does; each name gets a class of its own anew."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.kinds: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if name not in NAMED.get(module, ()):
            raise ShardsError(
                f"its {METADATA} names {module}.{name}, which no checkpoint needs: it may run a stranger's code"
            )
        return self.kinds.setdefault(name, type(name, (_Record,), {"kind": name}))


def _read_metadata(file: Path) -> Any:
    if not file.is_file() or file.is_symlink():
        raise ShardsError(f"it has no {METADATA}: it was not written to its end")
    if file.stat().st_size > MAX_METADATA_BYTES:
        raise ShardsError(
            f"its {METADATA} has {file.stat().st_size} bytes, expected at most {MAX_METADATA_BYTES}"
        )
    try:
        with open(file, "rb") as stream:
            found = _Plain(stream).load()
    except ShardsError:
        raise
    except Exception as error:  # whatever a damaged pickle runs into
        raise ShardsError(f"its {METADATA} is cut or damaged ({one_line(error)})") from error
    if not isinstance(found, _Record) or found.kind != "Metadata":
        raise ShardsError(f"its {METADATA} holds a {type(found).__name__}, expected torch's Metadata")
    return found


def _place(folder: Path, sizes: dict[str, int], info: Any) -> Piece:
    """Return where something lies, once that is within a file of the folder."""
    name, offset, length = info.relative_path, int(info.offset), int(info.length)
    if name not in sizes:
        raise ShardsError(f"its {METADATA} names the file {name!r}, which is missing or lies elsewhere")
    if offset < 0 or length < 1 or offset + length > sizes[name]:
        raise ShardsError(f"{name} is cut: it has {sizes[name]} bytes, expected {offset + length}")
    if vars(info).get("transform_descriptors"):
        raise ShardsError(f"{name} is compressed, expected plain tensors")
    return Piece(folder / name, offset, length)


def _offset(index: Any) -> tuple[int, ...] | None:
    offset = vars(index).get("offset")  # a plain value has none
    return None if offset is None else tuple(offset)


def _described(name: str, about: Any, places: dict[tuple[str, tuple[int, ...] | None], Piece]) -> Described:
    shape, dtype = tuple(map(int, about.size)), about.properties.state[0]
    if not isinstance(dtype, torch.dtype):
        raise ShardsError(f"tensor {name} has the dtype {dtype!r}")
    pieces = []
    for chunk in about.chunks:
        place, begin, sizes = places[name, tuple(chunk.offsets)], tuple(chunk.offsets), tuple(chunk.sizes)
        inside = [b >= 0 and s >= 0 and b + s <= n for b, s, n in zip(begin, sizes, shape, strict=True)]
        if not all(inside) or math.prod(sizes) * dtype.itemsize > place.length:
            raise ShardsError(
                f"a piece of tensor {name} claims {list(sizes)} at {list(begin)}, more than there is"
            )
        pieces.append(Piece(place.file, place.offset, place.length, begin, sizes))
    if sum(math.prod(piece.sizes) for piece in pieces) != math.prod(shape):
        raise ShardsError(f"the pieces of tensor {name} do not make {list(shape)}: a shard is missing")
    return Described(shape, dtype, pieces)
