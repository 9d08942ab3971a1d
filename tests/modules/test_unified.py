"""Unified: one vocabulary grown for tokenizers, and generation that stays within a modality."""

import pytest
import torch

from modules import parts
from modules.encoders.image_tokenizer import ImageTokenizer
from modules.language_model import LanguageModel
from modules.unified import Sampling, Unified, joined, to_the_right
from modules.unified_language_model import UnifiedLanguageModel
from modules.vocabulary import Vocabulary

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}


def image_tokenizer(levels=(3, 3)):
    return ImageTokenizer(16, patch_size=8, channels=16, levels=levels, num_blocks=1)


def build(tokenizer_path, config=LLAMA):
    torch.manual_seed(0)
    language_model = LanguageModel(config=config, tokenizer=tokenizer_path, max_tokens=24)
    return Unified(
        UnifiedLanguageModel(language_model, {"image": 9}, {"image": 4}), {"image": image_tokenizer()}
    ).eval()


@pytest.fixture
def unified(tokenizer_path):
    return build(tokenizer_path)


@pytest.fixture
def pictures():
    return {"image": {"pixels": torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)}}


@pytest.fixture
def texts():
    mask = torch.arange(6) < torch.tensor([[6], [3], [1]])
    return {"text": {"input_ids": torch.randint(10, 90, (3, 6)) * mask, "attention_mask": mask}}


# ---- the vocabulary


def test_every_id_belongs_to_one_modality_or_is_one_mark():
    vocabulary = Vocabulary(10, {"image": 4, "audio": 3})
    spans = vocabulary.spans.values()
    ids = [n for span in spans for n in (span.begin, span.end, *range(span.first, span.first + span.count))]
    assert sorted(ids) == list(range(vocabulary.size)) == list(range(10 + 4 + 3 + 3 * 2))
    assert list(vocabulary.spans) == ["text", "audio", "image"] and vocabulary.spans["text"].first == 0


def test_a_segment_is_the_numbers_between_marks_and_its_padding_stays_padding():
    vocabulary = Vocabulary(10, {"image": 4})
    ids, mask = vocabulary.segment("image", torch.tensor([[3, 0]]), torch.tensor([[True, False]]))
    span = vocabulary.spans["image"]
    assert ids[mask].tolist() == [span.begin, span.first + 3, span.end]
    assert set(vocabulary.others("image", with_end=True)) == set(range(13)) - {span.end}


def test_text_may_not_be_a_modality_of_units():
    with pytest.raises(ValueError, match="beside text"):
        Vocabulary(10, {"text": 4})


# ---- growing


@pytest.mark.parametrize("config", [LLAMA, GPT2, {**LLAMA, "tie_word_embeddings": False}])
def test_growing_leaves_what_is_known_of_text_as_it_was(config, tokenizer_path, texts):
    language_model = LanguageModel(config=config, tokenizer=tokenizer_path, max_tokens=24).eval()
    before = language_model.head(language_model(texts["text"]).features)
    size = before.shape[2]
    grown = UnifiedLanguageModel(language_model, {"image": 9}, {"image": 4}).eval()
    after = grown.head(grown.language_model(texts["text"]).features)
    assert after.shape[2] == size + 9 + 4 == grown.vocabulary.size
    assert torch.equal(after[..., :size], before)


def test_units_begin_as_near_one_another_as_their_codes_and_text_stays(unified):
    model, span = unified.language_model, unified.language_model.vocabulary.spans["image"]
    embeddings = model.language_model.model.get_input_embeddings().weight
    before = embeddings.detach().clone()
    codebook = torch.linspace(-1, 1, 9)[:, None]
    model.begin_as("image", codebook)
    here = slice(span.first, span.first + span.count)
    moved = (embeddings - before).detach()
    assert moved[here].std() == pytest.approx(float(before[: model.text_size].std()), rel=0.6)
    moved[here] = 0
    assert not moved.any()
    distances = torch.pdist(embeddings[here].detach()), torch.pdist(codebook)
    assert torch.corrcoef(torch.stack(distances))[0, 1] > 0.6  # the rest is what they had before
    model.begin_as("image", torch.zeros(9, 2))  # entries that nobody has found yet
    assert embeddings.isfinite().all()


def test_a_picture_tokenizer_says_where_its_units_lie():
    tokenizer = image_tokenizer()
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    units, _ = tokenizer.units({"pixels": pictures})
    assert torch.allclose(tokenizer.codebook()[units], tokenizer({"pixels": pictures}).features, atol=1e-6)


def test_a_part_that_was_handed_over_says_the_same_to_the_last_digit(unified, tmp_path, texts, pictures):
    parts.save(unified.language_model, tmp_path / "language_model")
    parts.save(unified.tokenizers["image"], tmp_path / "tokenizers.image")
    copy = Unified.load(tmp_path)
    assert torch.equal(copy.draw(texts, Sampling(seed=1)), unified.draw(texts, Sampling(seed=1)))
    assert copy.caption(pictures) == unified.caption(pictures)
    ids, mask = joined([unified.segment("text", texts["text"]), unified.segment("image", pictures["image"])])
    inputs = {"input_ids": ids, "attention_mask": mask}
    features = [each.language_model.language_model(inputs).features for each in (unified, copy)]
    assert torch.equal(*features)


# ---- generation


def test_only_units_of_the_picture_are_drawn_and_as_many_as_it_has(unified, texts):
    for sampling in (Sampling(temperature=5.0), Sampling(temperature=0), Sampling(top_k=2)):
        drawn = unified.generate(texts, "image", sampling=sampling)
        assert [len(row) for row in drawn] == [4, 4, 4]
        assert all(row.min() >= 0 and row.max() < 9 for row in drawn)


def test_only_words_are_said_of_a_picture_and_no_more_than_asked(unified, pictures):
    size = unified.language_model.text_size
    for row in unified.generate(pictures, "text", sampling=Sampling(temperature=5.0), max_units=7):
        assert len(row) <= 7 and (not len(row) or (row.min() >= 0 and row.max() < size))


def test_what_is_said_ends_at_the_mark(unified, pictures):
    span = unified.language_model.vocabulary.spans["text"]
    with torch.no_grad():  # the mark's row is the sum of all others: soon the likeliest
        embedding = unified.language_model.language_model.model.get_input_embeddings().weight
        embedding[span.end] = 50 * embedding[span.begin]
    said = unified.generate(pictures, "text", sampling=Sampling(temperature=0))
    assert all(len(row) < 22 and span.end not in row for row in said)


def test_greedy_words_are_those_of_a_model_that_reads_all_anew_each_time(unified, pictures):
    model, vocabulary = unified.language_model, unified.language_model.vocabulary
    said = unified.generate(pictures, "text", sampling=Sampling(temperature=0), max_units=5)
    begin = vocabulary.begin("text", 3, torch.device("cpu"))
    ids, mask = joined([unified.segment("image", pictures["image"]), begin])
    banned = vocabulary.others("text", with_end=True)
    for step in range(5):
        logits = model.head(model.language_model({"input_ids": ids, "attention_mask": mask}).features[:, -1])
        logits[:, banned] = -torch.inf
        chosen = logits.argmax(1)
        for row in range(3):
            if step < len(said[row]):
                assert chosen[row] == said[row][step]
        ids, mask = torch.cat([ids, chosen[:, None]], 1), torch.nn.functional.pad(mask, (0, 1), value=True)


def test_guided_units_are_those_of_two_models_that_read_all_anew_each_time(unified, texts):
    model, vocabulary = unified.language_model, unified.language_model.vocabulary
    drawn = unified.generate(texts, "image", sampling=Sampling(temperature=0, guidance=3.0))
    banned = vocabulary.others("image", with_end=False)
    begin = vocabulary.begin("image", 3, torch.device("cpu"))

    def log_probabilities(ids, mask):
        features = model.language_model({"input_ids": ids, "attention_mask": mask}).features[:, -1]
        return model.head(features).log_softmax(1)

    ids, mask = joined([unified.segment("text", texts["text"]), begin])
    alone, whole = begin
    for step in range(4):
        without = log_probabilities(alone, whole)
        guided = without + 3.0 * (log_probabilities(ids, mask) - without)
        guided[:, banned] = -torch.inf
        chosen = guided.argmax(1)
        assert chosen.tolist() == [int(row[step]) + vocabulary.spans["image"].first for row in drawn]
        ids, alone = torch.cat([ids, chosen[:, None]], 1), torch.cat([alone, chosen[:, None]], 1)
        mask, whole = (torch.nn.functional.pad(each, (0, 1), value=True) for each in (mask, whole))


def test_guidance_of_one_is_the_model_as_it_is(unified, texts):
    plain, guided, closer = (
        unified.generate(texts, "image", sampling=Sampling(seed=1, guidance=guidance))
        for guidance in (1.0, 1.0 + 1e-9, 50.0)
    )
    assert all(torch.equal(one, other) for one, other in zip(plain, guided, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(plain, closer, strict=True))


def test_padding_and_other_rows_do_not_change_what_is_drawn(unified, texts):
    together = unified.generate(texts, "image", sampling=Sampling(temperature=0))
    for row in range(3):
        alone = {name: tensor[row : row + 1] for name, tensor in texts["text"].items()}
        alone = {name: tensor[:, : [6, 3, 1][row]] for name, tensor in alone.items()}
        assert torch.equal(
            unified.generate({"text": alone}, "image", sampling=Sampling(temperature=0))[0], together[row]
        )


def test_a_seed_draws_the_same_and_leaves_other_draws_alone(unified, texts):
    torch.manual_seed(3)
    first = unified.generate(texts, "image", sampling=Sampling(seed=1))
    behind = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == behind
    again = unified.generate(texts, "image", sampling=Sampling(seed=1))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    other = unified.generate(texts, "image", sampling=Sampling(seed=2))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_nothing_given_is_nothing_said(unified, pictures):
    none = {"image": {"pixels": pictures["image"]["pixels"][:0]}}
    assert unified.caption(none) == []
    assert unified.draw(
        {"text": {n: torch.zeros(0, 3, dtype=torch.int64) for n in ("input_ids", "attention_mask")}}
    ).shape == (0, 3, 16, 16)


def test_real_ids_move_to_the_right_in_order():
    ids, mask = to_the_right(
        torch.tensor([[7, 0, 8, 0], [1, 2, 3, 0]]), torch.tensor([[1, 0, 1, 0], [1, 1, 1, 0]]).bool()
    )
    assert ids.tolist() == [[0, 7, 8], [1, 2, 3]] and mask.tolist() == [[False, True, True], [True] * 3]


# ---- what does not fit


def test_a_tokenizer_of_another_codebook_is_refused(unified):
    with pytest.raises(
        ValueError, match=r"codebooks of \{'image': 12\}, the language model was grown for \{'image': 9\}"
    ):
        Unified(unified.language_model, {"image": image_tokenizer((4, 3))})
    with pytest.raises(ValueError, match=r"codebooks of \{\}"):
        Unified(unified.language_model, {})


def test_a_part_that_makes_no_units_is_refused(unified, image_encoder):
    with pytest.raises(ValueError, match="tokenizer of image is a ImageEncoder"):
        Unified(unified.language_model, {"image": image_encoder})


def test_a_language_model_grown_for_others_is_refused(unified):
    with pytest.raises(ValueError, match="it was grown for other tokenizers"):
        UnifiedLanguageModel(
            unified.language_model.language_model,
            {"image": 8},
            {"image": 4},
            unified.language_model.text_size,
        )


def test_what_is_not_known_or_too_long_is_refused(unified, pictures, tokenizer_path):
    with pytest.raises(ValueError, match="'smell' is none of text, image"):
        unified.generate(pictures, "smell")
    with pytest.raises(ValueError, match="nothing draws 'text'"):
        unified.draw(pictures, modality="text")
    short = build(tokenizer_path, {**LLAMA, "max_position_embeddings": 30})
    with pytest.raises(
        ValueError, match=r"up to 32 ids \(image 6, text 26\), the language model 30 positions"
    ):
        short.caption(pictures)
    with pytest.raises(ValueError, match="temperature is -1"):
        Sampling(temperature=-1)
    with pytest.raises(ValueError, match="guidance is 0"):
        Sampling(guidance=0)
