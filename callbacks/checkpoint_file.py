"""Checkpoint files: written whole or not at all, with a checksum beside each, and checked before they are used.

step-00000500.ckpt          one file, or a folder where a strategy writes shards
step-00000500.ckpt.sha256   of each file in it, as `sha256sum -c` reads it
latest.ckpt, best.ckpt      links to one of them
"""

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

CHECKSUM = ".sha256"
BROKEN = ".broken"
WRITING = ".writing-"
LATEST = "latest.ckpt"
LIGHTNING_CLI = "lightning.pytorch.cli.instantiate_module"
"""What Lightning's own command line notes as the function that builds a model again; nothing here calls it."""
_NAME = re.compile(r"(?:epoch=\d+-)?step[-=](\d+)\.ckpt|last\.ckpt")  # ours, and Lightning's own
_BLOCK_BYTES = 1 << 22


class CheckpointError(ValueError):
    """A checkpoint that must not be gone on from."""


# ---- writing


def write(content: Any, path: Path) -> str:
    """Write what `torch.save` takes to a file that nobody reads yet, down to the disk, and return its sha256.

    Raises:
        OSError: when the disk is full, and the like; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "wb") as file:
            hashing = _Hashing(file)
            torch.save(content, hashing)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        # torch's writer says "unexpected pos" of a full disk; what the disk said is the cause.
        if isinstance(error, RuntimeError) and hashing.refused:
            raise hashing.refused from error
        raise
    return hashing.sha256.hexdigest()


def publish(temporary: Path, path: Path, sums: dict[str, str]) -> None:
    """Give a written checkpoint its name, now that it is whole: first its checksums, then itself, then `latest.ckpt`.

    Args:
        temporary: file or folder beside `path`.
        path: the name it gets; what is there is replaced.
        sums: sha256 by name, as `checksums` returns them.
    """
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    replace_text(checksum_path(path), text)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(temporary, path)
    sync_folder(path.parent)
    point(path.parent / LATEST, path)


def point(link: Path, target: Path) -> None:
    """Make a link beside its target, in one step."""
    temporary = link.with_name(f"{WRITING}{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    os.replace(temporary, link)
    sync_folder(link.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    temporary = path.with_name(f"{WRITING}{path.name}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove(path: Path) -> None:
    """Remove a checkpoint and its checksums; itself first, so that none stands there unchecked."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    checksum_path(path).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for path in folder.glob(f"{WRITING}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in folder.glob(f"*.ckpt{CHECKSUM}"):
        if not path.with_name(path.name.removesuffix(CHECKSUM)).exists():
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- choosing


def candidates(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder by their names alone, that of the most steps first."""
    found = [(match, path) for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))]
    by_step = sorted(found, key=lambda item: int(item[0][1]) if item[0][1] else 1 << 62, reverse=True)
    return [path for _, path in by_step]


def step_of(path: Path) -> int | None:
    """Return the optimiser step that a checkpoint's name states, None where it states none."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and match[1] else None


def checksum_path(path: Path) -> Path:
    """Return where the checksums of a checkpoint stand."""
    return path.with_name(path.name + CHECKSUM)


def files_of(path: Path) -> list[Path]:
    """Return the files of a checkpoint, in an order that is the same everywhere."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def checksums(path: Path, name: str | None = None, rank: int = 0, world_size: int = 1) -> dict[str, str]:
    """Return sha256 by name, relative to the checkpoint's folder, of this rank's share of a checkpoint's files.

    Args:
        path: the checkpoint.
        name: that it will have.
        rank, world_size: which share; all of it by default.
    """
    name = name or path.name
    return {
        "/".join([name, *file.relative_to(path).parts]): _sha256(file)
        for file in files_of(path)[rank::world_size]
    }


def check_sums(path: Path, rank: int = 0, world_size: int = 1) -> None:
    """Compare a checkpoint with the checksums beside it; ranks may share the work.

    Raises:
        CheckpointError: when a file differs, is missing or is too many.
    """
    lines = checksum_path(path).read_text(encoding="utf-8").split("\n")
    # A file that holds a digest alone, as other tools write it, is of the one file beside it.
    expected = {
        name or path.name: digest for digest, _, name in (line.partition("  ") for line in lines if line)
    }
    names = {"/".join([path.name, *file.relative_to(path).parts]) for file in files_of(path)}
    if expected.keys() != names:
        raise CheckpointError(
            f"its files are not those of its checksums: {sorted(expected.keys() ^ names)[:3]}"
        )
    for name, digest in checksums(path, rank=rank, world_size=world_size).items():
        if digest != expected[name].strip():
            raise CheckpointError(f"{name} has another sha256 than when it was written: it is cut or damaged")


# ---- checking one file


def read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, once nothing in it speaks against going on.

    Raises:
        CheckpointError: says what is wrong.
    """
    _check_archive(path)
    try:
        # Not mapped into memory: torch then takes what lies behind a record that is too short.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be trusted
        raise CheckpointError(
            f"it is not made of tensors and plain values alone, or is cut ({_line(error)})"
        ) from error
    check_content(content, path.stat().st_size)
    return content


def check_content(content: Any, num_bytes: int | None = None) -> None:
    """Look at what a checkpoint holds: everything that going on needs, every number finite.

    Args:
        content: as `torch.load` returns it.
        num_bytes: of the file, which no tensor may exceed.

    Raises:
        CheckpointError: says what is wrong.
    """
    try:
        _check_state(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"it is not built as a checkpoint of Lightning's is ({_line(error)})"
        ) from error
    exempt = set(content.get("not_finite", ()))
    for name, tensor in _tensors(content):
        _check_tensor(name, tensor, num_bytes, name in exempt)


def _check_archive(path: Path) -> None:
    """Look at the archive before torch does: what grows when it is unpacked, and bits that flipped."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
                raise CheckpointError(f"its record {packed[0]} is compressed, which torch never writes")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise CheckpointError("its records claim more bytes than it has")
            if not checksum_path(path).exists() and (bad := archive.testzip()):
                raise CheckpointError(f"its record {bad} is damaged")
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f"it is cut, or no checkpoint at all ({_line(error)})") from error


def _check_state(content: Any) -> None:
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError("it holds no state_dict: it is not a checkpoint of Lightning's")
    step = content.get("global_step")
    if not isinstance(step, int) or step < 0:
        raise CheckpointError(f"its global_step is {step!r}, expected a number of steps")
    code = (content.get("hyper_parameters") or {}).get("_instantiator", LIGHTNING_CLI)
    if code != LIGHTNING_CLI:
        raise CheckpointError(
            f"its hyper_parameters ask for {code!r} to be called: it may run a stranger's code"
        )
    optimizers = content.get("optimizer_states")
    if not isinstance(optimizers, list) or not optimizers:
        raise CheckpointError("it holds no optimiser state: it cannot be gone on from")
    for optimizer in optimizers:
        keeps = any("betas" in group or group.get("momentum") for group in optimizer["param_groups"])
        if step and keeps and not optimizer["state"]:
            raise CheckpointError(f"its optimiser state is empty after {step} steps")


def _check_tensor(name: str, tensor: Tensor, num_bytes: int | None, may_be_infinite: bool) -> None:
    if tensor.layout is not torch.strided:
        raise CheckpointError(f"its tensor {name} is {tensor.layout}, expected a plain one")
    if num_bytes is not None and tensor.numel() * tensor.element_size() > num_bytes:
        raise CheckpointError(f"its tensor {name} claims {list(tensor.shape)}, more than the file has")
    if not tensor.is_floating_point() or may_be_infinite:
        return
    if not all(block.isfinite().all() for block in tensor.reshape(-1).split(1 << 24)):
        raise CheckpointError(f"its tensor {name} holds NaN or infinity")


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _tensors(item, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _tensors(item, f"{prefix}.{number}")


def _line(error: BaseException) -> str:
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    code = re.search(r"GLOBAL ([\w.]+) was not an allowed global", text)
    return f"it names {code[1]}" if code else " ".join(text.split()).split(". ")[0][:200]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class _Hashing:
    """A file that is hashed as it is written, so that what the disk keeps is compared with what was meant."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.refused: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.refused = error
            raise
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()
