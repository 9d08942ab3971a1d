"""What says what is right: labels, numbers, and tags that find the tokens of their words in any tokenizer."""

import pickle
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.number import Number
from datamodules.modalities.tagged_text import IGNORED, TaggedText
from datamodules.modalities.target import TargetError, check_targets
from datamodules.modalities.text import Text
from datamodules.preparation.tokenizer import train_tokenizer
from datamodules.shards.writer import write_shards
from datamodules.stream import SampleSet

TEXTS = [
    "EU rejects German call to boycott British lamb .",
    "Peter Blackburn",
    "naïve café déjà-vu 漢字 👍🏽",
]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def byte_level() -> str:
    return train_tokenizer(TEXTS, 300)


def word_piece() -> str:
    """As BERT has it: lower case, accents gone, `[CLS]` and `[SEP]` around."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str()


def unigram() -> str:
    """As XLM-R and T5 have it: a mark before each word, here behind a token of its own where it is rare."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made.to_str()


def without_words() -> str:
    """One whose tokens run over the space between words."""
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.train_from_iterator(
        ["ab ab ab ab"] * 9, trainers.BpeTrainer(vocab_size=30, special_tokens=["[UNK]"])
    )
    return made.to_str()


TOKENIZERS = {"byte-level": byte_level, "word-piece": word_piece, "unigram": unigram}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def member(text: str, tags: list[str] | None = None) -> bytes:
    words = text.split(" ")
    return "".join(f"{w}\t{t}\n" for w, t in zip(words, tags or ["O"] * len(words), strict=True)).encode()


def collated(tokenizer: str, *texts: str, max_tokens: int = 100):
    modality = TaggedText(tokenizer, max_tokens, TAGS)
    return modality.collate([modality.decode(member(text), "conll") for text in texts])


class TestTaggedText:
    def test_ids_are_those_of_the_text(self, tokenizer):
        text = Text(tokenizer, 12)
        expected = text.collate([text.decode(each.encode(), "txt") for each in TEXTS])
        found = collated(tokenizer, *TEXTS, max_tokens=12)
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor)

    def test_each_word_has_the_first_of_the_tokens_that_it_has_alone(self, tokenizer):
        """The token found for a word is the first that the word's own characters are in."""
        found = collated(tokenizer, *TEXTS)
        made = Tokenizer.from_str(tokenizer)
        for row, text in enumerate(TEXTS):
            offsets = made.encode(text).offsets
            begin = 0
            for number, word in enumerate(text.split(" ")):
                end = begin + len(word)
                own = [p for p, (a, b) in enumerate(offsets) if a < end and b > begin and b > a]
                assert found["first_token"][row, number] == own[0]
                begin = end + 1
            assert (found["first_token"][row, number + 1 :] == -1).all()
            assert (found["tags"][row, number + 1 :] == IGNORED).all()

    def test_words_behind_the_last_token_have_none_and_keep_their_tags(self, tokenizer):
        whole, cut = collated(tokenizer, TEXTS[0]), collated(tokenizer, TEXTS[0], max_tokens=6)
        assert torch.equal(cut["tags"], whole["tags"])
        is_seen = cut["first_token"] >= 0
        assert 0 < is_seen.sum() < is_seen.numel()
        assert torch.equal(cut["first_token"][is_seen], whole["first_token"][is_seen])
        assert (cut["first_token"] < cut["input_ids"].shape[1]).all()

    def test_a_token_over_two_words_is_the_first_ones(self):
        found = collated(without_words(), "ab ab ab x")
        first = found["first_token"][0].tolist()
        assert first[0] == 0 and len({place for place in first if place >= 0}) == sum(p >= 0 for p in first)

    def test_a_word_of_which_nothing_is_left_keeps_its_place(self, tokenizer):
        modality = TaggedText(tokenizer, 100, TAGS)
        data = "Peter\tB-PER\n\u200b\tO\nRome\tB-LOC\n".encode()
        found = modality.collate([modality.decode(data, "conll")])
        assert found["tags"].tolist() == [[1, 0, 3]]
        first = found["first_token"][0].tolist()
        assert first[1] == -1 and first[2] > first[0] >= 0

    def test_what_looks_like_a_special_token_is_a_word(self):
        text = "Peter [SEP] Rome"
        found = collated(word_piece(), text)
        assert (found["input_ids"] == 3).sum() == 1
        first = found["first_token"][0]
        assert (first >= 0).all() and (first.diff() > 0).all()

    def test_no_samples_are_zero_rows(self, tokenizer):
        assert {name: len(tensor) for name, tensor in collated(tokenizer).items()} == {
            "input_ids": 0,
            "attention_mask": 0,
            "tags": 0,
            "first_token": 0,
        }

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"Peter\tB-ORG\n", "unknown_tag"),
            (b"Peter B-PER\n", "tags_layout"),
            (b"\xff\tO\n", "not_utf8"),
            (b"", "empty_text"),
            ("\u200b\tO\n".encode(), "empty_text"),
            (b"a\tO\n" * 10_000_000, "text_too_long"),
        ],
        ids=["tag", "no tab", "bytes", "nothing", "invisible", "long"],
    )
    def test_what_cannot_be_used_is_a_bad_sample(self, data, reason):
        with pytest.raises(BadSample) as bad:
            TaggedText(byte_level(), 10, TAGS).decode(data, "conll")
        assert bad.value.reason == reason

    def test_damage_is_a_bad_sample_or_words(self):
        modality = pickle.loads(pickle.dumps(TaggedText(byte_level(), 10, TAGS)))
        whole = member(TEXTS[0])
        for seed in range(200):
            draw = random.Random(seed)
            data = bytearray(whole)
            for _ in range(draw.randint(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            try:
                value = modality.decode(bytes(data), "conll")
            except BadSample:
                continue
            assert modality.collate([value])["tags"].shape == (1, len(value[0]))


class TestNumber:
    @pytest.mark.parametrize(
        ("field", "data", "expected"),
        [(None, b"-1.5\n", -1.5), (None, b"3e2", 300.0), ("age", b'{"age": 7, "x": 1}', 7.0)],
    )
    def test_numbers_are_read(self, field, data, expected):
        modality = Number(field)
        assert modality.decode(data, modality.members[0]) == expected
        assert modality.collate([expected])["number"].tolist() == [expected]

    @pytest.mark.parametrize(
        ("field", "data"),
        [(None, b"seven"), (None, b"nan"), (None, b"inf"), (None, b""), (None, b"1" * 200), ("age", b"7"),
         ("age", b'{"age": "7"}'), ("age", b'{"age": true}'), ("age", b"{}"), ("age", b"{"), ("age", b"\xff"),
         ("age", b"[" * 100_000), ("age", b'{"age": 1' + b"0" * 400 + b"}")],
    )  # fmt: skip
    def test_what_is_no_number_is_a_bad_sample(self, field, data):
        with pytest.raises(BadSample) as bad:
            Number(field).decode(data, "num")
        assert bad.value.reason == "not_a_number"

    def test_a_number_out_of_range_is_a_bad_sample(self):
        assert Number(low=0, high=5).decode(b"5", "num") == 5
        with pytest.raises(BadSample, match=r"number_out_of_range: 5\.1, expected 0 to 5"):
            Number(low=0, high=5).decode(b"5.1", "num")
        with pytest.raises(ValueError, match="low is 5"):
            Number(low=5, high=5)


class TestCheck:
    def samples(self, folder, *numbers):
        write_shards(
            [{"__key__": f"{at:05d}", "num": number.encode()} for at, number in enumerate(numbers)], folder
        )
        return SampleSet(folder, {"number": Number()}, ["number"])

    def test_few_bad_ones_pass_and_many_are_refused_with_the_commonest_first(self, tmp_path):
        check_targets("train", self.samples(tmp_path / "few", *["1"] * 99, "x"), 0.01)
        many = self.samples(tmp_path / "many", *["1"] * 97, "x", "y", "y")
        with pytest.raises(TargetError, match=r"train: 3 of 100 samples.*'y' \(2 ×\); .*'x' \(1 ×\)"):
            check_targets("train", many, 0.01)

    def test_of_very_many_samples_some_all_over_are_looked_at(self, tmp_path, monkeypatch):
        read = []
        monkeypatch.setattr("datamodules.modalities.target.NUM_CHECKED", 5)
        samples = self.samples(tmp_path / "s", *["1"] * 41)
        monkeypatch.setattr(Number, "decode", lambda *_: read.append(1) or 1.0)
        check_targets("train", samples, 0.0)
        assert len(read) == 5
