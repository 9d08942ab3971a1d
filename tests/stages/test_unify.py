"""Unify: its loss is next-token prediction over whole sequences, whatever the batch has, and its commands use it."""

import math
from pathlib import Path

import pytest
import torch

from datamodules.batch import Batch

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 96,
    "tie_word_embeddings": True,
}
SEQUENCES = [["text", "image"], ["image", "text"], ["audio", "text"]]


def language_model(tokenizer_path):
    from modules.language_model import LanguageModel

    return LanguageModel(config=LLAMA, tokenizer=tokenizer_path, max_tokens=24)


def image_tokenizer(**changes):
    from modules.encoders.image_tokenizer import ImageTokenizer

    small = {"image_size": 16, "patch_size": 8, "channels": 16, "levels": [3, 3], "num_blocks": 1}
    return ImageTokenizer(**{**small, **changes})


def audio_units():
    from modules.encoders.discrete_units import DiscreteUnits
    from modules.encoders.waveform_cnn import WaveformCNN

    units = DiscreteUnits(WaveformCNN(dim=8, max_seconds=1.0), num_units=5, dim=8)
    torch.nn.init.normal_(units.centroids)
    return units


@pytest.fixture
def make(tokenizer_path):
    from stages.unify.unify import Unify

    def build(**changes):
        torch.manual_seed(0)
        given = {
            "language_model": language_model(tokenizer_path),
            "tokenizers": {"image": image_tokenizer(), "audio": audio_units()},
            "sequences": SEQUENCES,
            "max_units": {"audio": 12},
        }
        stage = Unify(**{**given, **changes}).eval()
        stage._log = lambda *_, **__: None  # there is no trainer
        return stage

    return build


def batch(text=(0, 1, 2), image=(0, 1, 2), audio=(0, 1, 2), size=3):
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(6) < torch.tensor([[6], [3], [4]])
    everything = {
        "text": {"input_ids": torch.randint(10, 90, (3, 6), generator=generator), "attention_mask": mask},
        "image": {"pixels": torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)},
        "audio": {
            "waveform": torch.randn(3, 4000, generator=generator),
            "lengths": torch.tensor([4000, 2000, 3000]),
        },
    }
    rows = {"text": text, "image": image, "audio": audio}
    rows = {name: torch.tensor(each, dtype=torch.int64) for name, each in rows.items()}
    inputs = {
        name: {key: tensor[rows[name]] for key, tensor in each.items()} for name, each in everything.items()
    }
    return Batch(inputs, rows, [str(number) for number in range(size)])


def by_hand(stage, found, prompt_weight=1.0):
    """The loss, one sequence at a time: no batch, no padding, no packing."""
    model = stage.unified.language_model
    terms, weights = {}, 0.0
    for sequence in stage.sequences:
        name, total = "_".join(sequence), 0.0
        for sample in range(len(found)):
            if any(sample not in found.rows[modality] for modality in sequence):
                continue
            ids, prompt = [], 0
            for modality in sequence:
                row = found.rows[modality].tolist().index(sample)
                segment, mask = stage.unified.segment(modality, found.inputs[modality])
                prompt = len(ids) + 1
                ids += segment[row][mask[row]].tolist()
            ids = torch.tensor([ids])
            features = model.language_model(
                {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            ).features
            losses = torch.nn.functional.cross_entropy(
                model.head(features[0, :-1]), ids[0, 1:], reduction="none"
            )
            weight = torch.full_like(losses, prompt_weight)
            weight[prompt - 1 :] = 1
            total, weights = total + (weight * losses).sum().item(), weights + weight.sum().item()
        terms[name] = total
    return {name: total / weights for name, total in terms.items()}


PATTERNS = [
    {},
    {"image": ()},
    {"audio": (1,), "image": (0, 2)},
    {"text": (2,)},
    {"text": (0,), "image": (1,), "audio": (2,)},
]


@pytest.mark.parametrize("present", PATTERNS)
@pytest.mark.parametrize("prompt_weight", [1.0, 0.25, 0.0])
def test_the_loss_is_that_of_each_sequence_by_itself(present, prompt_weight, make):
    stage = make(prompt_weight=prompt_weight)
    found = batch(**present)
    losses = stage.losses(found)
    if len(present) == 3:
        assert set(losses) == {"text_image", "image_text", "audio_text"} and not any(losses.values())
        return
    expected = by_hand(stage, found, prompt_weight)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_rows_that_sequences_share_change_nothing(make):
    found = batch()
    short, long = make().losses(found), make(pack_tokens=300).losses(found)
    for name, loss in short.items():
        torch.testing.assert_close(loss, long[name])


def test_an_untrained_model_guesses_among_all_ids(make):
    stage = make()
    total = sum(stage.losses(batch()).values()).item()
    assert total == pytest.approx(math.log(stage.unified.language_model.vocabulary.size), rel=0.05)


@pytest.mark.parametrize("present", [{"text": (), "image": (), "audio": ()}, {"text": (), "image": (1,)}])
def test_a_batch_without_a_sequence_gives_zero_with_gradients_of_zero(present, make):
    stage = make()
    losses = stage.losses(batch(**present))
    torch.stack(list(losses.values())).sum().backward()
    assert not any(losses.values())
    trained = list(stage.unified.language_model.parameters())
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_tokenizers_stay_as_they_are(make):
    stage = make()
    stage.train()
    assert not stage.unified.tokenizers.training
    torch.stack(list(stage.losses(batch()).values())).sum().backward()
    assert not any(p.requires_grad or p.grad is not None for p in stage.unified.tokenizers.parameters())


def test_a_run_can_go_on_from_what_another_left(make):
    stage = make()
    again = make(language_model=stage.exports()["language_model"], max_units=None)
    assert set(again.exports()) == {"language_model", "tokenizers.image", "tokenizers.audio"}
    for name, loss in stage.losses(batch()).items():
        torch.testing.assert_close(again.losses(batch())[name], loss)


def test_only_modalities_of_a_sequence_are_asked_of_the_data(make):
    assert set(make(sequences=[["image", "text"]]).input_configs) == {"image", "text"}


def test_what_does_not_fit_is_refused_when_it_is_built(make, tokenizer_path):
    with pytest.raises(ValueError, match="names video, and there are tokenizers for text, image, audio"):
        make(sequences=[["video", "text"]])
    with pytest.raises(ValueError, match="expected every modality, and every sequence, once"):
        make(sequences=[["text", "text"]])
    with pytest.raises(ValueError, match="names no modality"):
        make(sequences=[])
    with pytest.raises(
        ValueError, match=r"a sequence of audio text has up to 126 ids \(audio 100, text 26\)"
    ):
        make(max_units={"audio": 98})
    with pytest.raises(ValueError, match=r"units are of audio, image, max_units is \{'image': 4\}"):
        make(max_units=None)
    with pytest.raises(ValueError, match="names image, whose tokenizer makes a fixed number"):
        make(max_units={"image": 4, "audio": 12})
    with pytest.raises(ValueError, match="pack_tokens is 20, and a sequence has up to 40"):
        make(pack_tokens=20)
    with pytest.raises(ValueError, match="prompt_weight is 2"):
        make(prompt_weight=2)
    grown = make().exports()["language_model"]
    with pytest.raises(
        ValueError, match=r"codebooks of \{'audio': 5, 'image': 12\}, the language model was grown"
    ):
        make(
            language_model=grown, tokenizers={"image": image_tokenizer(levels=[4, 3]), "audio": audio_units()}
        )
    with pytest.raises(ValueError, match="language_model was given a ImageTokenizer"):
        make(language_model=image_tokenizer())


# ---- the commands


@pytest.fixture
def run_parts(make, tmp_path):
    """The parts/ folder of a run."""
    from modules import parts

    for name, part in make().exports().items():
        parts.save(part, tmp_path / "parts" / name)
    return tmp_path / "parts"


def test_draw_writes_a_picture_of_as_many_as_asked(run_parts, tmp_path):
    from PIL import Image

    from stages.unify.generate import draw

    draw(run_parts, "a red seven", tmp_path / "out" / "drawn.png", count=3)
    assert Image.open(tmp_path / "out" / "drawn.png").size == (3 * 16, 16)


def test_caption_says_something_of_each_file(run_parts, tmp_path, scenes, capsys):
    from stages.unify.generate import caption

    files = []
    for member in ("png", "flac"):
        files.append(tmp_path / f"scene.{member}")
        files[-1].write_bytes(scenes[0][member])
    caption(run_parts, files)
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == list(map(str, files))


def test_what_cannot_be_drawn_or_read_is_refused(run_parts, tmp_path):
    from stages.unify.generate import caption, draw

    with pytest.raises(ValueError, match="more than 24 tokens"):
        draw(run_parts, "seven " * 50, tmp_path / "drawn.png")
    with pytest.raises(ValueError, match="cannot be read"):
        draw(run_parts, "  ", tmp_path / "drawn.png")
    with pytest.raises(ValueError, match="suffix of a picture format"):
        draw(run_parts, "a red seven", tmp_path / "drawn")
    with pytest.raises(ValueError, match="count is 0"):
        draw(run_parts, "a red seven", tmp_path / "drawn.png", count=0)
    with pytest.raises(ValueError, match=r"is none of .*\.jpg"):
        caption(run_parts, [tmp_path / "scene.pdf"])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read"):
        caption(run_parts, [tmp_path / "broken.png"])
    with pytest.raises(FileNotFoundError):
        caption(run_parts, [tmp_path / "absent.png"])


def test_units_are_fitted_to_sound_and_written_as_a_part(scenes_shards, tmp_path):
    from modules import parts
    from modules.encoders.waveform_cnn import WaveformCNN
    from stages.unify.units import units

    encoder = parts.save(WaveformCNN(dim=8, max_seconds=1.0), tmp_path / "encoder")
    units(encoder, str(scenes_shards), tmp_path / "units", num_units=4)
    numbers, _ = parts.load(str(tmp_path / "units")).units(batch().inputs["audio"])
    assert numbers.min() >= 0 and numbers.max() < 4 and len(numbers.unique()) > 1


@pytest.mark.slow
def test_from_pictures_to_a_drawing_through_the_command_lines(scenes_shards, tokenizer_path, tmp_path: Path):
    from stages.cli import run
    from stages.unify.generate import caption, draw

    common = ["--data.train", str(scenes_shards), "--data.val", str(scenes_shards), "--data.batch_size", "4"]
    common += [
        "--data.num_workers",
        "0",
        "--trainer.max_steps",
        "3",
        "--trainer.enable_progress_bar",
        "false",
    ]
    kind = "modules.encoders.image_tokenizer.ImageTokenizer"
    tokenizer = ["--model.modality", "image", "--model.encoder", kind, "--model.encoder.image_size", "16"]
    tokenizer += ["--model.encoder.channels", "32", "--model.encoder.levels", "[3,3]"]
    objective = ["--model.objective", "modules.objectives.reconstruction.Reconstruction"]
    run(
        "stages.pretrain.Pretrain",
        ["fit", "--run_dir", str(tmp_path / "image"), *tokenizer, *objective, *common],
    )
    config = tmp_path / "unify.yaml"
    config.write_text(
        f"""
model:
  language_model:
    class_path: modules.language_model.LanguageModel
    init_args: {{config: {LLAMA}, tokenizer: {tokenizer_path}, max_tokens: 48}}
  tokenizers:
    image:
      class_path: modules.parts.load
      init_args: {{path: {tmp_path}/image/parts/encoders.image}}
  sequences: [[text, image], [image, text]]
"""
    )
    run(
        "stages.unify.unify.Unify",
        ["fit", "--run_dir", str(tmp_path / "u"), "--config", str(config), *common],
    )
    draw(tmp_path / "u/parts", "a red seven", tmp_path / "drawn.png")
    caption(tmp_path / "u/parts", [tmp_path / "drawn.png"])
    assert (tmp_path / "drawn.png").is_file()
