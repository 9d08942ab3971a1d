"""Parts: what comes back is what was handed over, and anything else is refused by name."""

import os
import pickle

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from modules import parts
from modules.projections import Projection


@pytest.fixture
def folder(tmp_path):
    return parts.save(Projection(8, 4), tmp_path / "projections.image", stage="Align")


def edit_card(folder, **changes):
    card = yaml.safe_load((folder / parts.CARD).read_text())
    (folder / parts.CARD).write_text(yaml.safe_dump({**card, **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / parts.WEIGHTS)
    save_file(change(tensors), folder / parts.WEIGHTS)


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


def sabotage_missing(folder):
    os.rename(folder, folder.with_name("projections.imagine"))


def sabotage_no_weights(folder):
    (folder / parts.WEIGHTS).unlink()


def sabotage_truncated(folder):
    data = (folder / parts.WEIGHTS).read_bytes()
    (folder / parts.WEIGHTS).write_bytes(data[: len(data) // 2])


def sabotage_pickle(folder):
    (folder / parts.WEIGHTS).write_bytes(pickle.dumps({"a": 1}))


def sabotage_changed_value(folder):
    edit_weights(folder, lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()})


def sabotage_missing_tensor(folder):
    edit_weights(folder, lambda tensors: {n: t for n, t in tensors.items() if n != "query"})


def sabotage_renamed_tensor(folder):
    edit_weights(folder, lambda tensors: {n.replace("query", "key"): t for n, t in tensors.items()})


def sabotage_other_shape(folder):
    edit_weights(folder, lambda tensors: {**tensors, "query": torch.zeros(9)})


def sabotage_other_width(folder):
    edit_card(folder, init_args={"in_dim": 6, "out_dim": 4})


def sabotage_unknown_argument(folder):
    edit_card(folder, init_args={"in_dim": 8, "out_dim": 4, "depth": 2})


def sabotage_foreign_class(folder):
    edit_card(folder, class_path="os.system")


def sabotage_not_a_part(folder):
    edit_card(folder, class_path="modules.tokens.Tokens")


def sabotage_unknown_class(folder):
    edit_card(folder, class_path="modules.projections.Projektion")


def sabotage_not_yaml(folder):
    (folder / parts.CARD).write_text("{: [")


def sabotage_python_in_yaml(folder):
    (folder / parts.CARD).write_text("!!python/object/apply:os.system ['true']")


def sabotage_other_version(folder):
    edit_card(folder, version=99)


def sabotage_card_is_a_list(folder):
    (folder / parts.CARD).write_text("- a\n- b\n")


SABOTAGE = {
    sabotage_missing: "no part at .* holds the parts: projections.imagine",
    sabotage_no_weights: "has no weights.safetensors",
    sabotage_truncated: "damaged",
    sabotage_pickle: "damaged",
    sabotage_changed_value: "tensor '.*' has another sha256",
    sabotage_missing_tensor: "missing: query",
    sabotage_renamed_tensor: "missing: query; not known: key",
    sabotage_other_shape: r"tensor 'query' is float32 \[9\], its card says float32 \[8\]",
    sabotage_other_width: r"the class needs \[",
    sabotage_unknown_argument: "cannot be built from its card",
    sabotage_foreign_class: "names the class 'os.system'",
    sabotage_not_a_part: "is not a Part",
    sabotage_unknown_class: "cannot be imported",
    sabotage_not_yaml: "not readable as YAML",
    sabotage_python_in_yaml: "not readable as YAML",
    sabotage_other_version: "version 99",
    sabotage_card_is_a_list: "holds list, expected a mapping",
}


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda function: function.__name__)
def test_a_sabotaged_part_is_refused_by_name(folder, sabotage):
    sabotage(folder)
    with pytest.raises(parts.PartError, match=SABOTAGE[sabotage]):
        parts.load(str(folder))


def test_a_part_with_nan_is_not_written(tmp_path):
    module = Projection(4, 4)
    module.query.data[0] = float("nan")
    with pytest.raises(parts.PartError, match="'query' holds NaN"):
        parts.save(module, tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_a_changed_tokenizer_is_refused(text_encoder, tmp_path):
    folder = parts.save(text_encoder, tmp_path / "encoders.text")
    (folder / "tokenizer.json").write_text(text_encoder.tokenizer_json.replace("[EOS]", "[END]"))
    with pytest.raises(
        parts.PartError, match=r"tokenizer.json is not the file that the card was written with"
    ):
        parts.load(str(folder))
