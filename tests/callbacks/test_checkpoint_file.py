"""Checkpoint files: whole or not there, and none that is cut, damaged, hostile or spoilt is gone on from."""

import copy
import hashlib
import os
import pickle
import random
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch

from callbacks import checkpoint_file as files
from callbacks.checkpoint_file import CheckpointError


def good(step: int = 4, size: int = 4) -> dict:
    """Return what Lightning saves of a linear layer that Adam trains."""
    layer = torch.nn.Linear(size, size)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, size)).sum().backward()
    optimizer.step()
    return {
        "global_step": step,
        "state_dict": layer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "loops": {},
    }


def saved(folder: Path, content: object, name: str = "step-00000004.ckpt") -> Path:
    path = folder / name
    digest = files.write(content, path.with_name(files.WRITING + name))
    files.publish(path.with_name(files.WRITING + name), path, {name: digest})
    return path


class Code:
    def __reduce__(self):
        return (os.system, ("touch RAN",))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-900])


def emptied(path):
    path.write_bytes(b"")


def of_text(path):
    path.write_text("hello")


def of_pickle(path):
    path.write_bytes(pickle.dumps(Code()))


def of_code_within(path):
    torch.save({**good(), "hyper_parameters": Code()}, path)


def of_a_name_to_call(path):
    torch.save({**good(), "hyper_parameters": {"_instantiator": "os.system", "dim": 4}}, path)


def of_a_list(path):
    torch.save([1, 2], path)


def without_weights(path):
    torch.save({"global_step": 1}, path)


def with_nan(path):
    content = good()
    content["state_dict"]["bias"][1] = float("nan")
    torch.save(content, path)


def with_infinity_in_the_optimiser(path):
    content = good()
    content["optimizer_states"][0]["state"][0]["exp_avg"][0, 0] = float("inf")
    torch.save(content, path)


def without_optimiser(path):
    torch.save({**good(), "optimizer_states": []}, path)


def with_an_optimiser_emptied(path):
    content = good()
    content["optimizer_states"][0]["state"] = {}
    torch.save(content, path)


def with_a_negative_step(path):
    torch.save(good(step=-4), path)


def with_four_terabytes(path):
    content = good()
    content["state_dict"]["bias"] = torch.zeros(1).expand(1 << 40)
    torch.save(content, path)


def with_a_sparse_tensor(path):
    content = good()
    content["state_dict"]["bias"] = torch.sparse_coo_tensor(
        torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (1 << 40,)
    )
    torch.save(content, path)


def rewritten(path: Path, change) -> None:
    """Write the archive anew; `change` gets name and bytes of each record and returns them, or None to leave it out."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if (changed := change(name, data)) is not None:
                archive.writestr(name, changed[0], changed[1])


def without_a_record(path):
    rewritten(path, lambda name, data: None if name.endswith("/data/0") else (data, zipfile.ZIP_STORED))


def compressed(path):
    rewritten(path, lambda name, data: (data, zipfile.ZIP_DEFLATED))


def with_a_short_record(path):
    rewritten(path, lambda name, data: (data[:8] if name.endswith("/data/0") else data, zipfile.ZIP_STORED))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cut"),
        (emptied, "cut, or no checkpoint"),
        (of_text, "no checkpoint"),
        (of_pickle, "no checkpoint"),
        (of_code_within, "tensors and plain values alone"),
        (of_a_name_to_call, "ask for 'os.system' to be called"),
        (of_a_list, "no state_dict"),
        (without_weights, "no state_dict"),
        (with_nan, "state_dict.bias holds NaN"),
        (with_infinity_in_the_optimiser, "exp_avg holds NaN or infinity"),
        (without_optimiser, "no optimiser state"),
        (with_an_optimiser_emptied, "optimiser state is empty after 4 steps"),
        (with_a_negative_step, "global_step is -4"),
        (with_four_terabytes, "claims"),
        (with_a_sparse_tensor, "sparse|more than|plain values"),
        (without_a_record, "cut|record"),
        (with_a_short_record, "cut|record|storage"),
        (compressed, "compressed"),
    ],
)
def test_a_broken_checkpoint_is_refused_and_says_why(damage, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "step-00000004.ckpt"
    torch.save(good(), path)
    assert files.read(path)["global_step"] == 4
    damage(path)
    with pytest.raises(CheckpointError, match=message):
        files.read(path)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("with_checksum", [True, False])
def test_any_flipped_bit_of_a_weight_is_noticed(with_checksum, tmp_path):
    content = good(size=16)
    path = saved(tmp_path, content)
    if not with_checksum:
        files.checksum_path(path).unlink()
    place = path.read_bytes().index(content["state_dict"]["weight"].numpy().tobytes()) + 17
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        files.check_sums(path) if with_checksum else files.read(path)


def test_what_was_not_finite_when_it_was_saved_by_design_may_be_so(tmp_path):
    content = good()
    content["state_dict"]["mask"] = torch.tensor([0.0, float("-inf")])
    with pytest.raises(CheckpointError, match="mask holds"):
        files.check_content(content)
    files.check_content({**content, "not_finite": ["state_dict.mask"]})


def test_the_checksum_beside_a_checkpoint_is_what_sha256sum_reads(tmp_path):
    path = saved(tmp_path, good())
    subprocess.run(["sha256sum", "-c", f"{path.name}.sha256"], cwd=tmp_path, check=True, capture_output=True)
    files.checksum_path(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest())  # as other tools do
    files.check_sums(path)


def test_a_folder_of_shards_is_checked_file_by_file_and_by_what_there_is(tmp_path):
    folder = tmp_path / "step-00000004.ckpt"
    folder.mkdir()
    for name in ("__0_0.distcp", "__1_0.distcp", ".metadata"):
        (folder / name).write_text(name)
    shares = [files.checksums(folder, rank=rank, world_size=2) for rank in (0, 1)]
    text = "".join(f"{digest}  {name}\n" for share in shares for name, digest in share.items())
    files.checksum_path(folder).write_text(text)
    files.check_sums(folder)
    (folder / "__1_0.distcp").unlink()
    with pytest.raises(CheckpointError, match="__1_0"):
        files.check_sums(folder)
    (folder / "__1_0.distcp").write_text("other")
    with pytest.raises(CheckpointError, match="another sha256"):
        files.check_sums(folder)


def test_candidates_come_by_their_steps_and_links_and_strangers_are_none(tmp_path):
    for name in ("step-00000009.ckpt", "step-00000100.ckpt", "step=000012.ckpt", "last.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("step-zz.ckpt", "best.ckpt", "latest.ckpt", ".writing-step-00000200.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    names = [path.name for path in files.candidates(tmp_path)]
    assert names == ["last.ckpt", "step-00000100.ckpt", "step=000012.ckpt", "step-00000009.ckpt"]


def test_a_full_disk_leaves_nothing_and_is_said_as_what_it_is(tmp_path):
    content = good(size=256)
    allowed = 1 << 17

    def in_a_child():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, allowed))
        try:
            files.write(content, tmp_path / "a.ckpt")
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)

    child = os.fork()
    if child == 0:
        in_a_child()
    import errno

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EFBIG
    assert not list(tmp_path.iterdir())


def killed_while_saving(folder: Path, trials: int, seed: int) -> int:
    """Kill processes that save one checkpoint after the other, each at a random moment; return how many had begun one.

    Each trial must leave a newest checkpoint that is whole, at least as new as the one before it.
    """
    content = good(size=700)  # 6 MB with its optimiser state
    draw, newest, caught = random.Random(seed), 0, 0
    saved(folder, copy.deepcopy({**content, "global_step": 0}), "step-00000000.ckpt")
    for trial in range(trials):
        child = os.fork()
        if child == 0:
            step = newest
            while True:
                step += 1
                saved(folder, {**content, "global_step": step}, f"step-{step:08d}.ckpt")
                for old in files.candidates(folder)[2:]:
                    files.remove(old)
        time.sleep(draw.uniform(0.01, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        caught += bool(list(folder.glob(f"{files.WRITING}*")))
        files.sweep(folder)
        assert not list(folder.glob(f"{files.WRITING}*"))
        found = files.candidates(folder)
        for path in found:
            files.check_sums(path)
            files.read(path)
        assert files.step_of(found[0]) >= newest, f"trial {trial}"
        assert (folder / files.LATEST).resolve().exists()
        newest = files.step_of(found[0])
        sums = {path.name.removesuffix(files.CHECKSUM) for path in folder.glob(f"*{files.CHECKSUM}")}
        assert sums == {path.name for path in found}
    return caught


@pytest.mark.slow
@pytest.mark.parametrize("tmpdir", ["same", "other"])
def test_kill_while_saving_leaves_none_broken_in_60_trials(tmpdir, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path) if tmpdir == "same" else "/dev/shm")
    caught = killed_while_saving(tmp_path / "checkpoints", trials=60, seed=len(tmpdir))
    assert caught > 20  # in the middle of one


def test_kill_while_saving_leaves_none_broken(tmp_path):
    killed_while_saving(tmp_path / "checkpoints", trials=5, seed=1)
