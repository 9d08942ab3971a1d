"""Checkpoints of shards give their parts; damaged or forged ones are refused by name, and no code of theirs runs."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from sabotage import Run, edit_checkpoint, refused

from modules import parts
from modules.shard_map import METADATA
from modules.sharded_checkpoint import REST, ShardsError, check, open_shards

WEIGHT = "state_dict.projections.image.linear.weight"
RATE = "optimizer_0.param_groups.0.lr"


@pytest.fixture
def shards(finished: Run, tmp_path: Path) -> Path:
    """The checkpoint of `finished` as torch.distributed.checkpoint writes it, with an optimiser of one parameter."""
    import torch.distributed.checkpoint as dcp

    whole = torch.load(finished.checkpoint, weights_only=True)
    folder = tmp_path / "step-00000004.ckpt"
    name = WEIGHT.removeprefix("state_dict.")
    optimizer = {
        "param_groups": [{"lr": 0.5, "betas": (0.9, 0.99), "params": [name]}],
        "state": {name: {"exp_avg": torch.zeros(4, 8)}},
    }
    dcp.save(
        {"state_dict": whole["state_dict"], "optimizer_0": optimizer}, checkpoint_id=folder, no_dist=True
    )
    torch.save({"parts": whole["parts"], "global_step": 4}, folder / REST)
    return folder


def metadata_of(folder: Path):
    with open(folder / METADATA, "rb") as file:
        return pickle.load(file)


def edit_metadata(folder: Path, change) -> None:
    metadata = metadata_of(folder)
    change(metadata)
    (folder / METADATA).write_bytes(pickle.dumps(metadata))


def place_of(metadata, name: str):
    return next(place for index, place in metadata.storage_data.items() if index.fqn == name)


def replace_piece(folder: Path, name: str, data: bytes) -> None:
    """Put other bytes in the place of a tensor or value."""
    (folder / "forged.distcp").write_bytes(data)

    def point(metadata):
        place = place_of(metadata, name)
        place.relative_path, place.offset, place.length = "forged.distcp", 0, len(data)

    edit_metadata(folder, point)


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


class Forged:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_parts_of_shards_are_those_of_the_whole_checkpoint(finished, shards):
    for name in ("projections.image", "encoders.text"):
        of_shards, of_file = (parts.load(f"{path}#{name}") for path in (shards, finished.checkpoint))
        assert of_shards.provenance.fingerprint == of_file.provenance.fingerprint
        torch.testing.assert_close(of_shards.state_dict(), of_file.state_dict(), atol=0, rtol=0)


def test_values_are_read_and_a_whole_directory_passes(shards):
    assert open_shards(shards).value(RATE) == 0.5
    check(shards)


@pytest.mark.parametrize("where", ["metadata", "rest", "piece", "value"])
def test_a_pickle_that_would_run_code_does_not(where, shards, tmp_path):
    mark = tmp_path / "ran"
    forged = Forged(mark)
    if where == "metadata":
        edit_metadata(shards, lambda metadata: setattr(metadata, "planner_data", forged))
    elif where == "rest":
        torch.save({"parts": forged}, shards / REST)
    else:
        replace_piece(shards, WEIGHT if where == "piece" else RATE, saved(forged))
    with pytest.raises(ShardsError, match=r"mkdir|not made of"):
        check(shards)
    if where != "value":  # which no part holds
        refused(f"{shards}#projections.image", "take an earlier")
    assert not mark.exists()
    if where == "metadata":  # else it would not have been a test
        metadata_of(shards)
        assert mark.exists()


def test_what_the_metadata_names_is_not_changed_by_it(shards):
    """Opcodes may set attributes on a class, which would then be another one for all of the process."""
    from torch.distributed.checkpoint.metadata import Metadata

    name = Metadata.__module__ + "\n" + Metadata.__qualname__ + "\n"
    state = pickle.dumps((None, {"poisoned": 1}), protocol=2)[2:-1]
    (shards / METADATA).write_bytes(b"\x80\x02c" + name.encode() + state + b"b.")
    with pytest.raises(ShardsError):
        check(shards)
    assert not hasattr(Metadata, "poisoned")


def shard_is_missing(folder):
    next(folder.glob("*.distcp")).unlink()


def shard_is_truncated(folder):
    file = next(folder.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-100])


def shard_is_overwritten(folder):
    place = place_of(metadata_of(folder), WEIGHT)
    with open(folder / place.relative_path, "r+b") as file:
        file.seek(place.offset)
        file.write(b"\0" * place.length)


def shard_is_a_link_elsewhere(folder):
    file = next(folder.glob("*.distcp"))
    file.rename(folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def shard_is_named_outside(folder):
    edit_metadata(
        folder, lambda metadata: setattr(place_of(metadata, WEIGHT), "relative_path", "../x.distcp")
    )


def piece_is_missing(folder):
    edit_metadata(folder, lambda metadata: metadata.state_dict_metadata[WEIGHT].chunks.clear())


def piece_claims_too_much(folder):
    def claim(metadata):
        huge = torch.Size([1 << 40, 8])
        about = metadata.state_dict_metadata[WEIGHT]
        about.size = about.chunks[0].sizes = huge

    edit_metadata(folder, claim)


def piece_is_of_another_shape(folder):
    replace_piece(folder, WEIGHT, saved(torch.zeros(8, 4, 1)))


def piece_is_compressed(folder):
    plain, packed = zipfile.ZipFile(io.BytesIO(saved(torch.zeros(4, 8)))), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    replace_piece(folder, WEIGHT, packed.getvalue())


def piece_is_nan(folder):
    replace_piece(folder, WEIGHT, saved(torch.full((4, 8), torch.nan)))


def metadata_is_missing(folder):
    (folder / METADATA).unlink()


def metadata_is_truncated(folder):
    (folder / METADATA).write_bytes((folder / METADATA).read_bytes()[:-10])


def metadata_is_a_number(folder):
    (folder / METADATA).write_bytes(pickle.dumps(7))


def metadata_claims_a_long_string(folder):
    (folder / METADATA).write_bytes(b"\x80\x04\x96" + struct.pack("<Q", 1 << 62) + b".")


def metadata_holds_a_word(folder):
    edit_metadata(folder, lambda metadata: metadata.state_dict_metadata.update({WEIGHT: "zeros"}))


def without(folder: Path, prefix: str) -> None:
    """Let the metadata name nothing that begins so, as if it had never been saved."""

    def leave_out(metadata):
        for index in [index for index in metadata.storage_data if index.fqn.startswith(prefix)]:
            del metadata.storage_data[index]
            metadata.state_dict_metadata.pop(index.fqn, None)

    edit_metadata(folder, leave_out)


def rest_is_missing(folder):
    (folder / REST).unlink()


def rest_is_of_another_project(folder):
    edit_checkpoint(folder / REST, lambda checkpoint: checkpoint.pop("parts"))


IN_SHARDS = {
    shard_is_missing: "which is missing or lies elsewhere; take an earlier one",
    shard_is_truncated: "is cut: it has",
    shard_is_overwritten: "is not made of tensors and plain values alone, or is damaged",
    shard_is_a_link_elsewhere: "which is missing or lies elsewhere",
    shard_is_named_outside: r"names the file '../x.distcp', which is missing or lies elsewhere",
    piece_is_missing: r"the pieces of tensor .*linear.weight do not make \[4, 8\]: a shard is missing",
    piece_claims_too_much: "claims .* more than there is",
    piece_is_of_another_shape: r"is not torch.float32 \[4, 8\], as was said of it",
    piece_is_compressed: "is compressed, which torch never writes",
    piece_is_nan: "linear.weight' holds NaN or infinity",
    metadata_is_missing: "is a directory of shards, expected .* with .metadata and meta.pt",
    metadata_is_truncated: ".metadata is cut or damaged",
    metadata_is_a_number: "holds a int, expected torch's Metadata",
    metadata_claims_a_long_string: ".metadata is cut or damaged",
    metadata_holds_a_word: ".metadata is not as torch writes it",
    rest_is_missing: "is a directory of shards, expected .* with .metadata and meta.pt",
    rest_is_of_another_project: "holds no parts: it was not written by one of this project's stages",
}


@pytest.mark.parametrize("sabotage", IN_SHARDS, ids=lambda function: function.__name__)
def test_a_part_of_sabotaged_shards_is_refused_by_name(sabotage, shards):
    sabotage(shards)
    refused(f"{shards}#projections.image", IN_SHARDS[sabotage])


def test_a_directory_with_nan_is_not_gone_on_from(shards):
    piece_is_nan(shards)
    with pytest.raises(ShardsError, match=r"linear.weight holds NaN or infinity"):
        check(shards)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("optimizer_0.state", "its optimiser state is empty after 4 steps"),
        ("optimizer_0.param_groups", "does not say which parameters optimiser 0 had"),
        ("optimizer_0", "it holds no optimiser state"),
        ("state_dict", "it holds no weights"),
    ],
)
def test_an_emptied_directory_is_not_gone_on_from(prefix, message, shards):
    without(shards, prefix)
    for rank in (0, 1):
        with pytest.raises(ShardsError, match=message):
            check(shards, rank, world_size=2)


def test_before_the_first_step_an_optimiser_keeps_nothing_yet(shards):
    without(shards, "optimizer_0.state")
    edit_checkpoint(shards / REST, lambda checkpoint: checkpoint.update(global_step=0))
    check(shards)
