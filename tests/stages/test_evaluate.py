"""Evaluate: figures worked out by hand, the same for any batch size, and a report that holds all it shows."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from modules import parts
from stages.cli import command
from stages.embedding import Space
from stages.evaluate import answers, runs
from stages.evaluate.answers import Answer
from stages.evaluate.evaluate import evaluate
from stages.evaluate.retrieval import neighbours, recalls
from stages.evaluate.subtitles import Clip, read_clips, scores
from stages.evaluate.zero_shot import Predictions, class_vectors, nearest_class

DIGITS = ["one", "three", "two"]
TRUNK = {
    "model_type": "modernbert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "global_attn_every_n_layers": 1,
}
VIT = {
    "model_type": "vit",
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}


# ---- a tiny run and tiny sets


def picture(random: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def sound(random: np.random.Generator) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, random.normal(0, 0.1, random.integers(4000, 12000)), 16000, format="FLAC")
    return buffer.getvalue()


def record(number: int, random: np.random.Generator) -> dict[str, bytes]:
    task, media = [("shown_digit", "<image>\n"), ("describe", "<image>\n"), ("match", "<image>\n<audio>\n")][
        number % 3
    ]
    answer = f"a red {DIGITS[number % 2]} above a blue two" if task == "describe" else DIGITS[number % 2]
    question = {"from": "human", "value": f"{media}What <script>is</script> it?" + " Say it." * (number % 4)}
    content = {"id": str(number), "task": task, "conversations": [question, {"from": "gpt", "value": answer}]}
    sample = {"json": json.dumps(content).encode(), "png": picture(random)}
    return sample | ({"flac": sound(random)} if task == "match" else {})


def put(folder: Path, samples: list[dict[str, bytes]], **manifest: object) -> None:
    from datamodules.shards.writer import write_shards

    write_shards(
        ({"__key__": f"{n:04d}", **sample} for n, sample in enumerate(samples)), folder, max_samples=5
    )
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "samples": len(samples), **manifest}))


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> dict:
    """The arguments of an evaluation of random parts on random media."""
    from datamodules.preparation.tokenizer import train_tokenizer
    from modules.encoders.audio import AudioEncoder
    from modules.encoders.huggingface import ImageEncoder, TextEncoder
    from modules.language_model import LanguageModel
    from modules.media_attention import MediaAttention
    from modules.projections import Projection, Projector

    root = tmp_path_factory.mktemp("evaluate")
    random = np.random.default_rng(0)
    texts = [f"a red {DIGITS[n % 3]}" + " left of a blue two" * (n % 3) + f" {n}" for n in range(11)]
    scenes = [{"png": picture(random), "txt": text.encode(), "flac": sound(random)} for text in texts]
    del scenes[3]["flac"], scenes[7]["txt"]
    put(root / "scenes", scenes)
    put(
        root / "digits",
        [{"png": picture(random), "cls": DIGITS[n % 3].encode()} for n in range(9)],
        classes=DIGITS,
    )
    put(root / "instructions", [record(n, random) for n in range(10)])

    torch.manual_seed(0)
    tokenizer = root / "tokenizer.json"
    tokenizer.write_text(train_tokenizer(texts, vocab_size=300), encoding="utf-8")
    encoders = {
        "audio": AudioEncoder(TRUNK, max_seconds=2.0, num_mels=20),
        "image": ImageEncoder(config=VIT),
        "text": TextEncoder(config=TRUNK, tokenizer=str(tokenizer), max_tokens=24),
    }
    for name, encoder in encoders.items():
        parts.save(encoder, root / f"align/parts/encoders.{name}")
        parts.save(Projection(16, 8), root / f"align/parts/projections.{name}")
    for name in ("audio", "image"):
        parts.save(encoders[name], root / f"instruct/parts/encoders.{name}")
    heads = {"num_latents": 3, "num_heads": 2}
    parts.save(Projector(16, 16, group=2), root / "instruct/parts/projectors.image")
    parts.save(MediaAttention(16, 16, before=[0], **heads), root / "instruct/parts/projectors.audio")
    parts.save(LanguageModel(config=LLAMA, tokenizer=str(tokenizer)), root / "instruct/parts/language_model")
    return {
        "out": str(root / "out"),
        "aligned": str(root / "align/parts"),
        "retrieval": str(root / "scenes"),
        "zero_shot": {
            "handwriting": {
                "shards": str(root / "digits"),
                "modality": "image",
                "templates": ["a red {}", "{}"],
            }
        },
        "assistant": str(root / "instruct/parts"),
        "instructions": str(root / "instructions"),
        "descriptions": ["describe"],
        "baselines": {"the same": str(root / "instruct/parts")},
        "max_new_tokens": 6,
    }


def run(asked: dict, folder: Path) -> dict:
    """Evaluate by the command line and return what metrics.json holds."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**asked, "out": str(folder / "out")}))
    command(evaluate, ["--config", str(config)])
    return json.loads((folder / "out/metrics.json").read_text())


FIGURES = ("retrieval", "zero_shot", "instruct", "descriptions")


@pytest.fixture(scope="module")
def measured(asked, tmp_path_factory) -> tuple[dict, str]:
    """Return metrics.json and report.html of one evaluation."""
    folder = tmp_path_factory.mktemp("measured")
    return run(asked, folder), (folder / "out/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batch_size_changes_no_digit_of_the_figures(asked, measured, tmp_path, batch_size):
    other = run({**asked, "batch_size": batch_size}, tmp_path)
    assert {name: other[name] for name in FIGURES} == {name: measured[0][name] for name in FIGURES}


def test_every_direction_says_among_how_many_candidates_and_what_chance_is(measured):
    candidates = {name: scores["candidates"] for name, scores in measured[0]["retrieval"].items()}
    assert candidates == {
        "audio_to_image": 10,
        "image_to_audio": 10,
        "audio_to_text": 9,
        "text_to_audio": 9,
        "image_to_text": 10,
        "text_to_image": 10,
    }
    assert all(scores["chance"] == 1 / scores["candidates"] for scores in measured[0]["retrieval"].values())


def test_each_kind_of_question_is_scored_beside_chance_and_blank_media(measured):
    per_task = measured[0]["instruct"]["per_task"]
    assert {task: scores["count"] for task, scores in per_task.items()} == {
        "describe": 3,
        "match": 3,
        "shown_digit": 4,
    }
    assert per_task["describe"]["chance"] == 2 / 3
    assert per_task["shown_digit"]["chance"] == 1 / 2
    assert all({"exact_match", "blank"} <= scores.keys() for scores in per_task.values())


def test_a_baseline_that_is_the_same_model_scores_the_same(measured):
    instruct = measured[0]["instruct"]
    assert instruct["baselines"] == {"the same": instruct["exact_match"]}


def test_the_report_opens_without_a_network(measured):
    page = measured[1]
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert any(source.startswith("data:audio/flac") for source in sources)
    assert any(source.startswith("data:image/png") for source in sources)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|https?://", page)


def test_what_users_wrote_is_text_in_the_report(measured):
    assert "What &lt;script&gt;is&lt;/script&gt; it?" in measured[1]
    assert measured[1].count("<script>") == 1


def test_the_report_shows_where_an_answer_looks_and_all_six_directions(measured):
    assert 'class="heat"' in measured[1]
    assert len(re.findall('data-tab="', measured[1])) == 6


# ---- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retrieval": "nowhere"}, "nowhere is not there"),
        ({"aligned": "nowhere"}, "nowhere"),
        ({"assistant": "nowhere"}, "nowhere"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"descriptions": ["poem"]}, "descriptions names poem"),
        ({"curves": {"align": "nowhere"}}, "curves.align: no run directory at nowhere"),
        ({"aligned": None, "assistant": None}, "nothing to measure"),
    ],
)
def test_what_is_not_there_is_refused_with_one_message(asked, tmp_path, capsys, change, message):
    with pytest.raises(SystemExit) as refused:
        run({**asked, **change}, tmp_path)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "smell"}, "needs encoders of smell and text"),
        ({"templates": ["a digit"]}, "expected prompts"),
    ],
)
def test_a_zero_shot_set_that_cannot_be_classified_is_refused(asked, tmp_path, capsys, change, message):
    handwriting = {**asked["zero_shot"]["handwriting"], **change}
    with pytest.raises(SystemExit):
        run({**asked, "zero_shot": {"handwriting": handwriting}}, tmp_path)
    assert message in capsys.readouterr().err


def test_a_set_without_shards_is_refused(asked, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        run({**asked, "instructions": str(tmp_path / "empty")}, tmp_path)
    assert "holds no .tar" in capsys.readouterr().err


# ---- figures by hand


def test_candidates_are_the_samples_that_have_both_modalities():
    vectors = {"image": torch.eye(3), "text": torch.eye(3)[[0, 2]]}
    space = Space(["a", "b", "c"], vectors, {"image": torch.tensor([0, 1, 2]), "text": torch.tensor([0, 2])})
    images, texts, keys = space.pair("image", "text")
    assert keys == ["a", "c"] and torch.equal(images, texts)
    assert recalls(space)["image_to_text"] == {
        "recall_at_1": 1,
        "recall_at_5": 1,
        "recall_at_10": 1,
        "candidates": 2,
        "chance": 0.5,
    }


def test_modalities_without_a_common_sample_are_refused():
    rows = {"image": torch.tensor([0]), "text": torch.tensor([1])}
    with pytest.raises(ValueError, match="no sample has both image and text"):
        recalls(Space(["a", "b"], {"image": torch.eye(1), "text": torch.eye(1)}, rows))


def test_neighbours_come_nearest_first_with_the_place_of_the_right_one():
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    space = Space(
        ["a", "b"], {"image": images, "text": texts}, dict.fromkeys(("image", "text"), torch.arange(2))
    )
    [found] = neighbours(space, "image", "text", ["a"], count=2)
    assert (found.nearest, found.place) == (["b", "a"], 2)
    assert found.similarities == pytest.approx([0.8, 0.6])


def shared_captions() -> tuple[Space, dict[str, dict[str, int]]]:
    """Three pictures, of which the first two bear one caption, and which of their contents are the same."""
    images = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rows = dict.fromkeys(("image", "text"), torch.arange(3))
    contents = {"image": {"a": 1, "b": 2, "c": 3}, "text": {"a": 7, "b": 7, "c": 8}}
    return Space(["a", "b", "c"], {"image": images, "text": texts}, rows), contents


def test_a_caption_that_samples_share_is_one_candidate_and_right_for_each():
    space, contents = shared_captions()
    found = recalls(space, contents)
    assert {name: scores["candidates"] for name, scores in found.items()} == {
        "image_to_text": 2,
        "text_to_image": 3,
    }
    assert all(scores["recall_at_1"] == 1 for scores in found.values())
    assert recalls(space)["image_to_text"]["recall_at_1"] == pytest.approx(1 / 3)  # without contents, a tie


def test_a_shared_caption_is_shown_once_by_the_query_s_own_sample():
    space, contents = shared_captions()
    found = neighbours(space, "image", "text", ["b", "c"], contents=contents)
    assert [(one.nearest, one.place) for one in found] == [(["b", "c"], 1), (["c", "a"], 1)]


def test_contents_are_the_same_where_the_bytes_of_the_modality_are(tmp_path):
    from datamodules.modalities.label import Label
    from stages.evaluate.sets import read_contents

    put(tmp_path / "set", [{"cls": b"x", "txt": b"1"}, {"cls": b"x", "txt": b"2"}, {"txt": b"1"}])
    contents = read_contents(tmp_path / "set", {"label": Label(["x"])})
    assert contents["label"]["0000"] == contents["label"]["0001"] and "0002" not in contents["label"]


def test_confusion_counts_what_was_told_of_what_is_there():
    predictions = Predictions(["x", "y"], predicted=torch.tensor([0, 1, 1]), target=torch.tensor([0, 0, 1]))
    assert predictions.confusion() == [[1, 1], [0, 1]]
    assert predictions.scores() == {"accuracy": 2 / 3, "chance": 0.5, "candidates": 2, "count": 3}


def test_the_nearest_prompt_decides_not_the_mean_of_a_class():
    east, north, west = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    between = torch.tensor([0.6, 0.8])
    prompts = torch.stack([torch.stack([east, west]), torch.stack([between, between])])  # two classes
    seen = torch.stack([0.95 * east + 0.1 * north, north])
    assert nearest_class(seen, prompts).tolist() == [0, 1]


def test_a_class_has_a_vector_for_each_of_its_prompts():
    class Words:
        def decode(self, data: bytes, member: str) -> str:
            return data.decode()

        def collate(self, texts: list[str]) -> dict[str, torch.Tensor]:
            return {"length": torch.tensor([len(text) for text in texts])}

    class Plane:
        def embed(self, modality: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.eye(2)[(inputs["length"] > 3).long()]

    how = {"templates": ["{}", "{}{}"], "device": torch.device("cpu")}
    vectors = class_vectors(Plane(), Words(), classes=["a", "abc", "abcd"], **how)
    short, long = [1.0, 0.0], [0.0, 1.0]
    assert vectors.tolist() == [[short, short], [short, long], [long, long]]


@pytest.mark.parametrize(
    ("said", "is_right"), [("Seven.", True), (" a  seven", False), ("seven\n", True), ("", False)]
)
def test_answers_are_compared_without_case_spaces_and_full_stop(said, is_right):
    assert Answer("k", "t", "?", "seven", said).is_right is is_right


def test_chance_is_always_giving_the_most_frequent_answer_of_the_kind():
    given = [("sum", "9", "9"), ("sum", "9", "1"), ("sum", "1", "9"), ("match", "yes", "yes")]
    asked = [Answer(str(n), task, "?", expected, said) for n, (task, expected, said) in enumerate(given)]
    blind = [Answer(one.key, one.task, "?", one.expected, "9") for one in asked]
    found = answers.scores(asked, blind)
    assert found["per_task"]["sum"] == {"exact_match": 1 / 3, "chance": 2 / 3, "blank": 2 / 3, "count": 3}
    assert (found["exact_match"], found["blank_media"], found["chance"]) == (0.5, 0.5, 0.75)


def test_blank_media_are_mid_gray_and_silent_and_as_long():
    shown = {
        "pixels": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        "waveform": torch.ones(1, 4),
        "lengths": torch.tensor([4]),
    }
    seen = answers.blank(shown)
    assert (seen["pixels"] == 128).all() and (seen["waveform"] == 0).all() and seen["lengths"].tolist() == [4]
    assert {name: tensor.shape for name, tensor in seen.items()} == {
        name: tensor.shape for name, tensor in shown.items()
    }


def test_blank_media_of_a_modality_of_ones_own_are_zeros_and_no_item():
    shown = {
        "signal": torch.ones(1, 2, dtype=torch.float16),
        "items": torch.ones(1, 2, dtype=torch.int32),
        "mask": torch.ones(1, 2, dtype=torch.bool),
    }
    seen = answers.blank(shown)
    assert not seen["signal"].any() and not seen["items"].any() and seen["mask"].all()
    assert {name: tensor.dtype for name, tensor in seen.items()} == {
        name: tensor.dtype for name, tensor in shown.items()
    }


def test_a_perfect_description_scores_one_and_a_wrong_word_lowers_it():
    text = "a red seven left of a blue two"
    perfect = answers.description_scores([Answer("k", "describe", "?", text, text)])
    wrong = answers.description_scores([Answer("k", "describe", "?", text, text.replace("red", "green"))])
    assert (perfect["bleu"], perfect["rouge1"], perfect["rougeL"]) == (1, 1, 1)
    assert wrong["rouge1"] == pytest.approx(7 / 8) and 0 < wrong["bleu"] < 1


def test_attention_is_laid_on_the_square_of_patches():
    assert answers.grid(torch.arange(8), group=2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert answers.grid(torch.arange(6), group=1) is None
    assert answers.grid(torch.zeros(0), group=1) is None


def test_subtitle_errors_are_sizes_over_all_cues_whose_right_time_is_known(tmp_path):
    cues = [
        {"true_s": 1, "before_s": 0.7, "after_s": 0.99},
        {"true_s": 5, "before_s": 5.1, "after_s": 5},
        {"before_s": 9},
    ]
    other = [{"true_s": 2, "before_s": 2.2, "after_s": 2.02}]
    listed = [
        {"name": "a", "cues": cues},
        {"name": "b", "cues": other},
        {"name": "c", "cues": [{"before_s": 9}]},
    ]
    (tmp_path / "alignment.json").write_text(json.dumps({"clips": listed}))
    clips = read_clips(tmp_path)
    assert clips == [Clip("a", before=[-300, 100], after=[-10, 0]), Clip("b", before=[200], after=[20])]
    assert scores(clips) == {"median": 10, "p95": pytest.approx(19), "before": 200, "cues": 3}


@pytest.mark.parametrize(
    ("content", "message"), [("{", "prepare the set again"), ('{"clips": []}', "knows no right time")]
)
def test_alignment_that_says_no_errors_is_refused(tmp_path, content, message):
    (tmp_path / "alignment.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_clips(tmp_path)


# ---- the page


@pytest.mark.parametrize(
    ("member", "shown"),
    [
        ({"csv": b"t,ax\n0,1"}, "t,ax\n0,1"),
        ({"csv": b"1," * 300}, "1," * 150 + "…"),
        ({"bin": bytes(range(256))}, ".bin, 256 bytes"),
        ({"txt": "café <b>".encode()}, "café &lt;b&gt;"),
        ({}, "–"),
    ],
)
def test_members_of_any_kind_are_shown_as_text_or_by_their_size(member, shown):
    from stages.evaluate import media

    assert media.show(member, ["csv", "bin", "txt"]) == f'<p class="words">{shown}</p>'


def test_smoothing_keeps_a_constant_and_thinning_keeps_the_end():
    curve = [(step, 2.0) for step in range(1000)]
    assert all(value == pytest.approx(2.0) for _, value in runs.smoothed(curve))
    assert runs.thinned(curve)[-1] == curve[-1] and len(runs.thinned(curve)) == 200


def test_curves_are_read_from_a_run_s_tensorboard_logs(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "logs") as writer:
        for step in range(4):
            writer.add_scalar("train/loss", 2.0, step)
            writer.add_scalar("train/other", 1.0, step)
    assert runs.read_curves(tmp_path) == {"train/loss": [(step, pytest.approx(2.0)) for step in range(4)]}
