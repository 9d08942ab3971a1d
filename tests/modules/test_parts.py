"""Parts: what comes back is what was handed over, and anything else is refused by name."""

import pytest
import torch
from safetensors.torch import load_file

from modules import parts
from modules.projections import Projection


@pytest.fixture
def folder(tmp_path):
    return parts.save(Projection(8, 4), tmp_path / "projections.image", stage="Align")


def test_a_part_is_rebuilt_with_its_weights(folder):
    again = parts.load(str(folder))
    card = parts.read_card(folder)
    assert card["stage"] == "Align"
    assert (again.in_dim, again.out_dim) == (8, 4)
    weights = load_file(folder / parts.WEIGHTS)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_the_same_part_has_the_same_fingerprint_wherever_it_lies(folder, tmp_path):
    other = parts.save(parts.load(str(folder)), tmp_path / "elsewhere", stage="Instruct")
    assert parts.fingerprint(parts.read_card(other)) == parts.fingerprint(parts.read_card(folder))


def test_writing_again_replaces_and_leaves_nothing_behind(folder):
    parts.save(Projection(8, 2), folder)
    assert parts.load(str(folder)).out_dim == 2
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_a_tied_weight_is_stored_once_and_loaded_into_both(language_model, tmp_path):
    language_model.model.config.tie_word_embeddings = True
    language_model.model.tie_weights()
    folder = parts.save(language_model, tmp_path / "language_model")
    again = parts.load(str(folder))
    ids = torch.tensor([[1, 20, 30]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    before = language_model.head(language_model(inputs).features)
    torch.testing.assert_close(again.eval().head(again(inputs).features), before, atol=0, rtol=0)


def test_a_part_with_nan_is_not_written(tmp_path):
    module = Projection(4, 4)
    module.query.data[0] = float("nan")
    with pytest.raises(parts.PartError, match="'query' holds NaN"):
        parts.save(module, tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_a_sharded_part_is_described_as_the_plain_one(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module = Projection(8, 4)
    plain = parts.describe(module)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
        assert parts.describe(module) == plain
    finally:
        dist.destroy_process_group()


def test_parts_of_one_hand_over_list_one_another(tmp_path):
    together = {"projections.image": Projection(8, 4), "projections.text": Projection(6, 4)}
    parts.save_all(together, tmp_path, {name: {"stage": "Align"} for name in together})
    cards = {name: parts.read_card(tmp_path / name) for name in together}
    assert cards["projections.image"]["siblings"] == {
        "projections.text": parts.fingerprint(cards["projections.text"])
    }
    assert set(parts.load_all(tmp_path, ["projections"])["projections"]) == {"image", "text"}


def test_a_part_says_which_one_it_was_made_from(folder, tmp_path):
    card = parts.read_card(parts.save(parts.load(str(folder)), tmp_path / "later"))
    assert card["parent"] == {"path": str(folder), "fingerprint": parts.fingerprint(parts.read_card(folder))}
