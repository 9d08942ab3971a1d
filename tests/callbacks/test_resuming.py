"""Resuming: from the newest whole checkpoint, from none that is broken, and from none of another model."""

import signal

import pytest
import torch

from callbacks import checkpoint_file as files
from callbacks.checkpoint_file import CheckpointError
from callbacks.checkpoints import Checkpoints
from callbacks.resuming import fitted
from modules.optimizer_state import StateError

pytestmark = pytest.mark.filterwarnings("ignore:(?!.*is broken)")  # Lightning's advice on tiny runs


def checkpoints(folder) -> Checkpoints:
    return Checkpoints(folder, every_n_steps=2, keep=3)


@pytest.fixture
def stopped(fit, line, tmp_path):
    """The folder of a run that was killed behind step 6."""
    fit(line(), checkpoints(tmp_path), steps=6)
    assert [files.step_of(path) for path in files.candidates(tmp_path)] == [6, 4, 2]
    return tmp_path


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_the_newest_is_gone_on_from(fit, line, stopped):
    module = line()
    fit(module, checkpoints(stopped), steps=8)
    assert list(module.weights) == [7, 8]


def test_a_broken_one_is_named_and_set_aside_and_the_newest_whole_one_taken(fit, line, stopped):
    cut(stopped / "step-00000006.ckpt")
    module = line()
    with pytest.warns(UserWarning, match="step-00000006.ckpt is broken: .*another sha256"):
        fit(module, checkpoints(stopped), steps=8)
    assert list(module.weights) == [5, 6, 7, 8]
    assert (stopped / "step-00000006.ckpt.broken").exists()


def test_without_its_checksum_a_broken_one_is_noticed_too(fit, line, stopped):
    cut(stopped / "step-00000006.ckpt")
    files.checksum_path(stopped / "step-00000006.ckpt").unlink()
    module = line()
    fit(module, checkpoints(stopped), steps=8)
    assert list(module.weights) == [5, 6, 7, 8]


def test_where_none_is_whole_the_run_stops_and_names_each(fit, line, stopped):
    for path in files.candidates(stopped):
        cut(path)
    with pytest.raises(
        CheckpointError, match=r"no whole checkpoint \(step-00000006.ckpt: .*step-00000002.ckpt: "
    ):
        fit(line(), checkpoints(stopped), steps=8)
    assert len(files.candidates(stopped)) == 3  # left as they were


def test_a_link_to_a_checkpoint_that_is_gone_does_not_start_anew(fit, line, stopped):
    for path in files.candidates(stopped):
        files.remove(path)
    with pytest.raises(CheckpointError, match=r"latest.ckpt names step-00000006.ckpt, which is missing"):
        fit(line(), checkpoints(stopped), steps=8)


def test_an_empty_folder_starts_from_the_start(fit, line, tmp_path):
    module = line()
    fit(module, checkpoints(tmp_path / "none"), steps=2)
    assert list(module.weights) == [1, 2]


def test_a_checkpoint_of_the_last_step_of_a_run_that_did_not_finish_is_not_taken(fit, line, stopped):
    module = line()
    fit(module, checkpoints(stopped), steps=6)
    assert list(module.weights) == [5, 6]


def test_a_checkpoint_asked_for_is_checked_and_not_replaced_by_another(fit, line, stopped):
    module, asked = line(), stopped / "step-00000004.ckpt"
    fit(module, checkpoints(stopped), steps=6, ckpt_path=str(asked))
    assert list(module.weights) == [5, 6]
    cut(asked)
    with pytest.raises(CheckpointError, match=r"step-00000004.ckpt cannot be used"):
        fit(line(), checkpoints(stopped), steps=6, ckpt_path=str(asked))
    with pytest.raises(CheckpointError, match="nothing of that name"):
        fit(line(), checkpoints(stopped), steps=6, ckpt_path=str(stopped / "no.ckpt"))
    with pytest.raises(CheckpointError, match="is a URL"):
        fit(line(), checkpoints(stopped), steps=6, ckpt_path="https://example.org/a.ckpt")


def test_a_checkpoint_of_other_optimisers_is_refused_by_their_number(fit, line, stopped):
    asked = stopped / "step-00000004.ckpt"
    content = torch.load(asked, weights_only=True)
    files.checksum_path(asked).unlink()
    torch.save({**content, "optimizer_groups": []}, asked)
    with pytest.raises(StateError, match="states of 1 optimisers and names of 0, this run has 1"):
        fit(line(), checkpoints(stopped), steps=6, ckpt_path=str(asked))


def test_what_another_jobs_handler_left_in_the_directory_is_not_taken(fit, line, tmp_path, monkeypatch):
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another job")
    detect = "lightning.pytorch.trainer.connectors.checkpoint_connector.SLURMEnvironment.detect"
    monkeypatch.setattr(detect, lambda: True)
    module = line()
    fit(module, checkpoints(tmp_path / "none"), steps=2)
    assert list(module.weights) == [1, 2]


def test_handlers_of_signals_are_left_alone(fit, line, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    during = []
    module = line()
    module.on_train_batch_start = lambda *_: during.append(signal.getsignal(signal.SIGTERM))
    fit(module, checkpoints(tmp_path), steps=1)
    assert during == [before]


def test_weights_are_fitted_by_name_and_precision_and_refused_by_shape():
    module = torch.nn.Linear(2, 3)
    state = module.state_dict()
    for prefix in ("", "_orig_mod.", "module.", "module._orig_mod."):
        loaded = fitted({prefix + name: tensor.half() for name, tensor in state.items()}, module)
        assert {name: tensor.dtype for name, tensor in loaded.items()} == dict.fromkeys(state, torch.float32)
    with pytest.raises(CheckpointError, match="lacks 1 tensors of this model: bias"):
        fitted({"weight": state["weight"]}, module)
    with pytest.raises(CheckpointError, match="1 tensors that this model lacks: scale"):
        fitted({**state, "scale": torch.ones(1)}, module)
    with pytest.raises(
        CheckpointError, match=r"weight is torch.float32 \[2, 3\], this model's is .*\[3, 2\]"
    ):
        fitted({**state, "weight": state["weight"].T}, module)
    with pytest.raises(CheckpointError, match=r"bias is torch.int64"):
        fitted({**state, "bias": state["bias"].long()}, module)
