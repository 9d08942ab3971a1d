"""A directory of shards is gone on from by one process, as from the file that one process would have written."""

import pickle
from pathlib import Path

import pytest
import torch

from callbacks import checkpoint_file as files
from callbacks.checkpoint_file import CheckpointError
from callbacks.checkpoints import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:(?!.*is broken)")  # Lightning's advice on tiny runs
NAMES = ["layer.weight", "layer.bias"]


def checkpoints(folder: Path, keep: int = 1) -> Checkpoints:
    return Checkpoints(folder, every_n_steps=2, keep=keep)


def as_shards(file: Path, change=lambda content: None, change_optimizer=lambda optimizer: None) -> None:
    """Put a directory in a checkpoint file's place, its optimiser's parameters by name and in groups of their own."""
    import torch.distributed.checkpoint as dcp

    content = torch.load(file, weights_only=True)
    change(content)
    optimizer = content.pop("optimizer_states")[0]
    settings = {key: value for key, value in optimizer["param_groups"][0].items() if key != "params"}
    state = {name: optimizer["state"][number] for number, name in enumerate(NAMES)}
    groups = [{**settings, "params": [name]} for name in reversed(NAMES)]
    content["optimizer_groups"] = [[[name] for name in reversed(NAMES)]]
    files.remove(file)
    by_name = {"state": state, "param_groups": groups}
    change_optimizer(by_name)
    shards = {"state_dict": content.pop("state_dict"), **({"optimizer_0": by_name} if by_name else {})}
    dcp.save(shards, checkpoint_id=file, no_dist=True)
    torch.save(content, file / "meta.pt")
    write_sums(file)


def write_sums(folder: Path) -> None:
    sums = files.checksums(folder)
    files.checksum_path(folder).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


@pytest.fixture
def unbroken(fit, line, tmp_path) -> dict[int, torch.Tensor]:
    """The weights behind each of 8 steps."""
    torch.manual_seed(0)
    module = line()
    fit(module, checkpoints(tmp_path / "unbroken"), steps=8)
    return module.weights


@pytest.fixture
def stopped(fit, line, tmp_path) -> Path:
    """The checkpoint of a run that was killed behind step 6."""
    torch.manual_seed(0)
    fit(line(), checkpoints(tmp_path / "stopped"), steps=6)
    return tmp_path / "stopped" / "step-00000006.ckpt"


def test_one_process_goes_on_from_shards_as_if_it_had_not_stopped(fit, line, stopped, unbroken):
    as_shards(stopped)
    module = line()
    fit(module, checkpoints(stopped.parent), steps=8)
    assert list(module.weights) == [7, 8]
    torch.testing.assert_close(module.weights[8], unbroken[8], atol=0, rtol=0)


def test_shards_with_nan_are_not_gone_on_from(fit, line, stopped):
    as_shards(stopped, lambda content: content["state_dict"]["layer.bias"].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=r"tensor state_dict.layer.bias holds NaN"):
        fit(line(), checkpoints(stopped.parent), steps=8)


def test_shards_whose_metadata_names_a_function_are_not_gone_on_from(fit, line, stopped):
    as_shards(stopped)
    (stopped / ".metadata").write_bytes(pickle.dumps(pickle.loads))
    write_sums(stopped)
    with pytest.raises(CheckpointError, match=r"names _pickle.loads, which no checkpoint needs"):
        fit(line(), checkpoints(stopped.parent), steps=8)


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        (lambda optimizer: optimizer.update(state={}), "its optimiser state is empty after 6 steps"),
        (lambda optimizer: optimizer.clear(), "it holds no optimiser state"),
    ],
)
def test_shards_whose_optimiser_is_emptied_are_set_aside_and_older_ones_taken(
    empty, message, fit, line, unbroken, tmp_path
):
    torch.manual_seed(0)
    fit(line(), checkpoints(tmp_path / "stopped", keep=2), steps=6)
    newest, older = files.candidates(tmp_path / "stopped")
    as_shards(newest, change_optimizer=empty)
    as_shards(older)
    module = line()
    with pytest.warns(UserWarning, match=f"step-00000006.ckpt is broken: {message}"):
        fit(module, checkpoints(newest.parent), steps=8)
    assert list(module.weights) == [5, 6, 7, 8]
    torch.testing.assert_close(module.weights[8], unbroken[8], atol=0, rtol=0)
