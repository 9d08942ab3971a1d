"""Parts that were damaged, exchanged or forged are refused by name, in time, with what to do."""

import json
import pickle

import pytest
import torch
import yaml
from sabotage import edit_card, edit_init_args, edit_weights, refused

from modules import adapters, parts
from modules.projections import Projection, Projector

# ---- a part that is not whole


def folder_is_misnamed(run):
    run.part.rename(run.folder / "projections.imagine")


def folder_is_empty(run):
    for file in run.part.iterdir():
        file.unlink()


def card_is_missing(run):
    (run.part / parts.CARD).unlink()


def weights_are_missing(run):
    (run.part / parts.WEIGHTS).unlink()


def weights_are_truncated(run):
    data = (run.part / parts.WEIGHTS).read_bytes()
    (run.part / parts.WEIGHTS).write_bytes(data[: len(data) // 2])


def weights_are_empty(run):
    (run.part / parts.WEIGHTS).write_bytes(b"")


def weights_are_a_folder(run):
    (run.part / parts.WEIGHTS).unlink()
    (run.part / parts.WEIGHTS).mkdir()


def weights_are_sharded(run):
    (run.part / parts.WEIGHTS).rename(run.part / "weights-00001-of-00002.safetensors")


def weights_are_a_pickle_of_another_name(run):
    (run.part / parts.WEIGHTS).unlink()
    (run.part / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def weights_are_a_pickle_of_the_same_name(run):
    (run.part / parts.WEIGHTS).write_bytes(pickle.dumps({"a": 1}))


def header_of_weights_claims_256_terabytes(run):
    (run.part / parts.WEIGHTS).write_bytes((1 << 48).to_bytes(8, "little") + b"{}")


def tensors_of_weights_overlap(run):
    data = (run.part / parts.WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    named = [name for name in header if name != "__metadata__"]
    begin = header[named[0]]["data_offsets"][0]
    for name in named:
        first, last = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin, begin + last - first]
    forged = json.dumps(header).encode()
    (run.part / parts.WEIGHTS).write_bytes(len(forged).to_bytes(8, "little") + forged + data[8 + length :])


def one_shard_was_never_gathered(run):
    edit_weights(run.part, lambda tensors: {**tensors, "linear.weight": torch.zeros(0)}, forge=True)


def one_shard_was_never_gathered_and_the_card_says_otherwise(run):
    edit_weights(run.part, lambda tensors: {**tensors, "linear.weight": torch.zeros(0)})


def projector_is_empty(run):
    edit_weights(run.part, lambda tensors: {}, forge=True)


# ---- weights that are others


def a_value_was_changed(run):
    edit_weights(run.part, lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()})


def a_bit_was_flipped(run):
    data = bytearray((run.part / parts.WEIGHTS).read_bytes())
    data[-3] ^= 1
    (run.part / parts.WEIGHTS).write_bytes(bytes(data))


def weights_are_not_finite(run):
    edit_weights(run.part, lambda tensors: {**tensors, "query": torch.full((8,), torch.nan)}, forge=True)


def a_tensor_is_missing(run):
    edit_weights(run.part, lambda tensors: {n: t for n, t in tensors.items() if n != "query"})


def a_tensor_is_missing_from_both(run):
    edit_weights(run.part, lambda tensors: {n: t for n, t in tensors.items() if n != "query"}, forge=True)


def a_tensor_was_renamed(run):
    edit_weights(run.part, lambda tensors: {n.replace("query", "key"): t for n, t in tensors.items()})


def a_tensor_has_another_prefix(run):
    edit_weights(run.part, lambda tensors: {f"module.{n}": t for n, t in tensors.items()}, forge=True)


def a_tensor_is_one_too_many(run):
    edit_weights(run.part, lambda tensors: {**tensors, "bias": torch.zeros(4)})


def a_tensor_is_one_too_many_in_both(run):
    edit_weights(run.part, lambda tensors: {**tensors, "bias": torch.zeros(4)}, forge=True)


def a_tensor_has_another_shape(run):
    edit_weights(run.part, lambda tensors: {**tensors, "query": torch.zeros(9)})


def a_tensor_has_another_precision(run):
    edit_weights(run.part, lambda tensors: {**tensors, "query": tensors["query"].bfloat16()})


def weights_are_of_another_part(run):
    other = parts.save(Projection(6, 4), run.folder / "projections.audio")
    (other / parts.WEIGHTS).replace(run.part / parts.WEIGHTS)


def tokenizer_is_another(run):
    file = run.text / "tokenizer.json"
    file.write_text(file.read_text().replace("[EOS]", "[END]"))


def tokenizer_is_missing(run):
    (run.text / "tokenizer.json").unlink()


def tokenizer_is_larger_than_the_vocabulary(run):
    from modules.card import sha256

    file = run.text / "tokenizer.json"
    content = yaml.safe_load(file.read_text())  # JSON is YAML, and the test needs no other reader
    first = content["added_tokens"][0]
    content["added_tokens"].append({**first, "id": 999, "content": "[NEW]"})
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_tokens([f"word{number}" for number in range(400)])
    file.write_text(tokenizer.to_str())
    edit_card(run.text, assets={"tokenizer.json": sha256(file.read_bytes())})


# ---- a card that lies


def card_says_another_width(run):
    edit_card(run.part, init_args={"in_dim": 6, "out_dim": 4})


def card_says_an_argument_that_is_not_known(run):
    edit_card(run.part, init_args={"in_dim": 8, "out_dim": 4, "depth": 2})


def card_says_a_width_that_no_memory_holds(run):
    edit_card(run.part, init_args={"in_dim": 1 << 50, "out_dim": 4})


def card_says_a_width_below_zero(run):
    edit_card(run.part, init_args={"in_dim": -8, "out_dim": 4})


def card_says_another_model(run):
    edit_init_args(run.text, config={"model_type": "gpt7"})


def card_names_a_foreign_class(run):
    edit_card(run.part, class_path="os.system")


def card_names_a_class_that_is_no_part(run):
    edit_card(run.part, class_path="modules.tokens.Tokens")


def card_names_a_function(run):
    edit_card(run.part, class_path="modules.parts.load")


def card_names_the_interface(run):
    edit_card(run.part, class_path="modules.part.Part")


def card_names_a_class_that_was_renamed(run):
    edit_card(run.part, class_path="modules.projections.Projektion")


def card_names_a_module_that_was_moved(run):
    edit_card(run.part, class_path="modules.projection.Projection")


def card_names_a_foreign_class_within(run):
    inner = {"part": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}}
    edit_card(run.part, init_args={"in_dim": inner, "out_dim": 4})


def card_says_half_a_part_within(run):
    edit_card(run.part, init_args={"in_dim": {"part": {"class_path": "modules.projections.Projection"}}})


def card_fetches_a_model(run):
    edit_card(
        run.part,
        class_path="modules.encoders.huggingface.ImageEncoder",
        init_args={"name_or_path": "someone/something"},
    )


def card_reads_another_part(run):
    arguments = {"path": str(run.text), "modality": "text", "allow": ["subprocess"]}
    edit_card(run.part, class_path="modules.encoders.cached.CachedEncoder", init_args=arguments)


def card_names_a_file_elsewhere(run):
    edit_card(run.part, assets={"../encoders.text/tokenizer.json": "0" * 64})


def card_is_of_another_version(run):
    edit_card(run.part, version=99)


def card_lacks_its_tensors(run):
    card = yaml.safe_load((run.part / parts.CARD).read_text())
    del card["tensors"]
    (run.part / parts.CARD).write_text(yaml.safe_dump(card))


def card_says_nothing_of_a_tensor(run):
    edit_card(run.part, tensors={**parts.read_card(run.part)["tensors"], "query": None})


def card_is_a_list(run):
    (run.part / parts.CARD).write_text("- a\n- b\n")


def card_is_not_yaml(run):
    (run.part / parts.CARD).write_text("{: [")


def card_is_not_text(run):
    (run.part / parts.CARD).write_bytes(b"\xff\xfe\x00\x01")


def card_runs_python(run):
    (run.part / parts.CARD).write_text("!!python/object/apply:os.system ['true']")


def card_is_huge(run):
    with open(run.part / parts.CARD, "ab") as file:
        file.write(b"# and so on\n" * (2 << 20))


def card_is_nested_until_the_reader_crashes(run):
    (run.part / parts.CARD).write_text("[" * 200_000 + "]" * 200_000)


def card_grows_by_aliases(run):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    (run.part / parts.CARD).write_text("\n".join(lines))


def weights_are_a_link_out_of_the_folder(run):
    elsewhere = run.folder.parent / "elsewhere.safetensors"
    (run.part / parts.WEIGHTS).rename(elsewhere)
    (run.part / parts.WEIGHTS).symlink_to(elsewhere)


def card_is_a_link_out_of_the_folder(run):
    (run.part / parts.CARD).rename(run.folder.parent / "card.yaml")
    (run.part / parts.CARD).symlink_to(run.folder.parent / "card.yaml")


def adapter_is_not_merged(run):
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["linear"]}
    adapted = adapters.adapt(parts.load(str(run.part)), config, merge=False)
    parts.save(adapted, run.folder / "tuned")
    run.part.rename(run.folder / "base")
    (run.folder / "tuned").rename(run.part)


def adapter_is_not_merged_and_the_card_hides_it(run):
    adapter_is_not_merged(run)
    card = yaml.safe_load((run.part / parts.CARD).read_text())
    del card["adapter"]
    (run.part / parts.CARD).write_text(yaml.safe_dump(card))


def siblings_are_a_list(run):
    edit_card(run.part, siblings=["encoders.image"])


def class_within_is_a_number(run):
    edit_card(run.part, init_args={"in_dim": {"part": {"class_path": 3, "init_args": {}}}, "out_dim": 4})


def adapter_is_said_by_a_word(run):
    edit_card(run.part, adapter="none")


IN_A_FOLDER = {
    folder_is_misnamed: "no part at .* holds the parts: projections.imagine, encoders.text",
    folder_is_empty: "is not a part: it has no card.yaml; .* holds the parts: encoders.text",
    card_is_missing: "is not a part: it has no card.yaml",
    weights_are_missing: "has no weights.safetensors: the part is incomplete; write it again",
    weights_are_truncated: "weights.safetensors is damaged.*write the part again",
    header_of_weights_claims_256_terabytes: "weights.safetensors is damaged.*write the part again",
    tensors_of_weights_overlap: "weights.safetensors is damaged.*write the part again",
    weights_are_empty: "weights.safetensors is damaged.*write the part again",
    weights_are_a_folder: "has no weights.safetensors.*write it again",
    weights_are_sharded: "it holds shards of weights, expected whole ones; write the part again",
    weights_are_a_pickle_of_another_name: "it holds pytorch_model.bin, and pickles are not read; write the part again",
    weights_are_a_pickle_of_the_same_name: "is damaged, or no safetensors file.*write the part again",
    one_shard_was_never_gathered: r"'linear.weight' is \[0\], the class needs \[4, 8\]; it is empty, as a shard",
    one_shard_was_never_gathered_and_the_card_says_otherwise: r"float32 \[0\].*it is empty, as a shard",
    projector_is_empty: "missing: linear.weight, norm.bias, norm.weight, query.*write it again",
    a_value_was_changed: "tensor '.*' has another sha256.*write the part again",
    a_bit_was_flipped: "tensor '.*' has another sha256.*write the part again",
    weights_are_not_finite: "query' holds NaN or infinity: take an earlier checkpoint",
    a_tensor_is_missing: "missing: query.*write it again",
    a_tensor_is_missing_from_both: "Projection as built from its card .*missing: query",
    a_tensor_was_renamed: "missing: query; not known: key",
    a_tensor_has_another_prefix: "missing: linear.weight, .*; not known: module.linear.weight",
    a_tensor_is_one_too_many: "the card of .*not known: bias",
    a_tensor_is_one_too_many_in_both: "Projection as built from its card .*not known: bias",
    a_tensor_has_another_shape: r"'query' is float32 \[9\], its card says float32 \[8\]; .*write it again",
    a_tensor_has_another_precision: r"'query' is bfloat16 \[8\], its card says float32 \[8\]",
    weights_are_of_another_part: r"'query' is float32 \[6\], its card says float32 \[8\]; .*not of one part",
    card_says_another_width: r"tensor 'query' is \[8\], the class needs \[6\]|the class needs \[4, 6\]",
    card_says_an_argument_that_is_not_known: "Projection cannot be built from its card .*depth",
    card_says_a_width_that_no_memory_holds: "Projection cannot be built from its card",
    card_says_a_width_below_zero: "Projection cannot be built from its card",
    card_names_a_foreign_class: "names the class 'os.system', which is not of modules; if you trust it, list",
    card_names_a_class_that_is_no_part: "'modules.tokens.Tokens' is not a Part",
    card_names_a_function: "'modules.parts.load' is not a Part",
    card_names_the_interface: "modules.part.Part cannot be built from its card",
    card_names_a_class_that_was_renamed: "'modules.projections.Projektion' cannot be imported.*renamed or moved",
    card_names_a_module_that_was_moved: "'modules.projection.Projection' cannot be imported.*renamed or moved",
    card_names_a_foreign_class_within: "names the class 'subprocess.Popen', which is not of modules",
    card_says_half_a_part_within: "a part within it lacks its class_path or its init_args",
    class_within_is_a_number: "a part within it lacks its class_path or its init_args",
    siblings_are_a_list: "'siblings' is a list, expected a dict; write the part again",
    card_fetches_a_model: "its card fetches the model 'someone/something', expected a config",
    card_reads_another_part: "a CachedEncoder stands in for another part: name that one instead",
    card_names_a_file_elsewhere: "lacks the file '../encoders.text/tokenizer.json' that its card names",
    card_is_of_another_version: "version 99, this project reads version 1",
    card_lacks_its_tensors: "lacks tensors: not a whole card; write the part again",
    card_says_nothing_of_a_tensor: "the entry of tensor 'query' lacks shape or dtype",
    card_is_a_list: "holds list, expected a mapping",
    card_is_not_yaml: "(?s)not readable as YAML.*write the part again",
    card_is_not_text: "not readable as YAML.*write the part again",
    card_runs_python: "not readable as YAML.*python/object/apply",
    card_is_huge: "bytes, more than 16777216: not a card",
    card_is_nested_until_the_reader_crashes: "is nested more than 64 deep: not a card",
    card_grows_by_aliases: r"has a YAML alias \(\*a0\): cards have none",
    weights_are_a_link_out_of_the_folder: "is a link out of its folder, to .*elsewhere.safetensors: copy the file",
    card_is_a_link_out_of_the_folder: "is a link out of its folder, to .*card.yaml: copy the file",
    adapter_is_not_merged: r"not merged into its base.*modules.adapters.merge.*python -m stages.merge",
    adapter_is_not_merged_and_the_card_hides_it: "not known: linear.lora_A.default.weight",
    adapter_is_said_by_a_word: "'adapter' is a str, expected a dict",
}
OF_A_TEXT_ENCODER = {
    tokenizer_is_another: "tokenizer.json is not the file that the card was written with.*put the right one back",
    tokenizer_is_missing: "lacks the file 'tokenizer.json' that its card names",
    tokenizer_is_larger_than_the_vocabulary: r"the tokenizer has \d+ tokens, the embedding of ModernBertModel \d+",
    card_says_another_model: "TextEncoder cannot be built from its card .*'gpt7' is not known",
}


@pytest.mark.parametrize("sabotage", IN_A_FOLDER, ids=lambda function: function.__name__)
def test_a_sabotaged_part_is_refused_by_name(sabotage, finished):
    sabotage(finished)
    refused(str(finished.part), IN_A_FOLDER[sabotage])


@pytest.mark.parametrize("sabotage", OF_A_TEXT_ENCODER, ids=lambda function: function.__name__)
def test_a_sabotaged_text_encoder_is_refused_by_name(sabotage, finished):
    sabotage(finished)
    refused(str(finished.text), OF_A_TEXT_ENCODER[sabotage])


# ---- parts that do not belong together


def test_parts_of_two_parents_are_refused_by_both_names(tmp_path, text_encoder):
    from modules.embedder import Embedder

    for run in ("first", "second"):
        modules = {"encoders.text": text_encoder, "projections.text": Projection(16, 4)}
        parts.save_all(modules, tmp_path / run, {name: {} for name in modules})
        for parameter in text_encoder.parameters():
            parameter.data += 0.1
    assert Embedder.load(tmp_path / "first")
    (tmp_path / "second" / "encoders.text").rename(tmp_path / "second" / "unused")
    (tmp_path / "first" / "encoders.text").rename(tmp_path / "second" / "encoders.text")
    with pytest.raises(
        parts.PartError, match=r"second/encoders.text \('encoders.text'\) was handed over with"
    ):
        Embedder.load(tmp_path / "second")


def test_a_projector_of_another_language_model_is_refused(tmp_path, image_encoder, language_model):
    from modules.assistant import Assistant

    modules = {
        "language_model": language_model,
        "encoders.image": image_encoder,
        "projectors.image": Projector(16, 16),
    }
    parts.save_all(modules, tmp_path, {name: {} for name in modules})
    assert Assistant.load(tmp_path)
    language_model.embed(torch.zeros(1, 1, dtype=torch.long))
    next(language_model.parameters()).data += 0.1
    parts.save(language_model, tmp_path / "language_model")
    with pytest.raises(
        parts.PartError, match=r"was handed over with another 'language_model'.*take both from one run"
    ):
        Assistant.load(tmp_path)


def test_an_encoder_of_another_width_than_its_projection_is_refused(tmp_path, text_encoder):
    from modules.embedder import Embedder

    parts.save(text_encoder, tmp_path / "encoders.text")
    parts.save(Projection(8, 4), tmp_path / "projections.text")
    with pytest.raises(
        ValueError, match="the text encoder is 16 wide, its projection takes 8: take both from one run"
    ):
        Embedder.load(tmp_path)
