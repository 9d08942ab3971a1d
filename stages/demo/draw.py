"""draw: a model of one vocabulary is trained on the demo's scenes, draws from text, and aligned encoders say what."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.cli import write_json
from stages.demo.drawings import draw_thing
from stages.demo.judge import Judge, text_inputs
from stages.demo.pipeline import ROOT, Step, run_together
from stages.demo.scenes import COLOURS, DIGITS, THINGS, Scene, Thing, parse
from stages.demo.sheet import write_sheet
from stages.demo.splits import make_splits

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.batch import Batch
    from modules.unified import Sampling, Unified

STEPS = (
    Step("drawings", "stages.demo drawings --out runs/demo/drawings", "drawings/made.json"),
    Step(
        "prepare drawings",
        "stages.prepare --config configs/prepare/drawings.yaml",
        "drawn-shards/drawings-train/manifest.json",
    ),
    Step(
        "image tokenizer",
        "stages.pretrain fit --config configs/pretrain/image_tokenizer.yaml",
        "pretrain-image-tokenizer/metrics.json",
    ),
    Step("unify", "stages.unify fit --config configs/unify/scenes.yaml", "unify/metrics.json"),
)
SHOWN = (
    *(f"a {colour} {digit}" for colour, digit in zip((*COLOURS, *COLOURS), DIGITS, strict=False)),
    "a white four left of a red nine",
    "a yellow one above a blue seven",
)
"""Texts on the sheet."""
INKED = 4
"""Patches across and down in the middle, where a single digit is."""


def draw(count: int = 10, temperature: float = 0.6, guidance: float = 2.0, seed: int = 0) -> None:
    """Train the demo's model of words and image tokens, and measure what it draws and says.

    Needs what `python -m stages.demo run` leaves. Goes on where an earlier run stopped. Leaves metrics.json and
    sheet.webp in runs/demo/draw.

    Args:
        count: Pictures of each of the 60 combinations of colour and digit.
        temperature: At which units of pictures are drawn.
        guidance: How closely they keep to the text; 1 draws as the model says.
        seed: Of the draw.

    Raises:
        FileNotFoundError: when the demo has not run here.
        SystemExit: with a stage's exit code when one fails.
    """
    for path in ("align/parts", "pretrain-lm/parts", "shards/scenes-test/manifest.json", "raw/made.json"):
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"no {ROOT / path}: run `python -m stages.demo run` first")
    for step in STEPS:
        run_together([] if (ROOT / step.done).is_file() else [step])

    from modules.embedder import Embedder
    from modules.unified import Sampling, Unified

    unified = Unified.load(ROOT / "unify/parts")
    judge = Judge(Embedder.load(ROOT / "align/parts"))
    sampling = Sampling(temperature, seed=seed, guidance=guidance)
    made = json.loads((ROOT / "raw/made.json").read_text(encoding="utf-8"))
    metrics = {
        **_on_single_things(unified, judge, count, sampling, made),
        "copied": _copied(unified, count, sampling, made["seed"]),
        **_on_test_scenes(unified, judge, sampling),
        "chance": {"digit": 1 / len(DIGITS), "colour": 1 / len(COLOURS), "both": 1 / len(THINGS)},
        "temperature": temperature,
        "guidance": guidance,
        "seed": seed,
    }
    pictures = drawn_pictures(unified, [text for text in SHOWN for _ in range(3)], sampling)
    write_sheet(SHOWN, pictures.unflatten(0, (len(SHOWN), 3)), ROOT / "draw/sheet.webp")
    write_json(ROOT / "draw/metrics.json", metrics)
    print("\n" + table(metrics) + f"\n\n{ROOT / 'draw/sheet.webp'}")


def drawn_pictures(unified: "Unified", texts: Sequence[str], sampling: "Sampling") -> "Tensor":
    """Draw each text once: (texts, 3, height, width), uint8."""
    return unified.draw({"text": text_inputs(unified.input_configs["text"], texts)}, sampling)


def _on_single_things(
    unified: "Unified", judge: Judge, count: int, sampling: "Sampling", made: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Let aligned encoders say what is on pictures of single things, `count` of each: on drawn ones, on real ones of
    handwriting that training never saw, and on these as the tokenizer redraws them; and the same of the combinations
    that training never saw."""
    asked = [str(thing) for thing in THINGS for _ in range(count)]
    real = real_pictures([thing for thing in THINGS for _ in range(count)], made["seed"], sampling.seed)
    kinds = {
        "drawn": drawn_pictures(unified, [f"a {thing}" for thing in asked], sampling),
        "real_things": real,
        "redrawn_things": unified.tokenizers["image"].pixels(unified.numbers("image", {"pixels": real})[0]),
    }
    said = unified.caption({"image": {"pixels": real}})
    scores = {"said_things": _said([(f"a {thing}", text) for thing, text in zip(asked, said, strict=True)])}
    for name, pixels in kinds.items():
        pairs = list(zip(asked, judge.things(pixels), strict=True))
        scores[name] = _recognised(*zip(*pairs, strict=True))
        held_out = [pair for pair in pairs if pair[0] in made["held_out"]]
        scores[f"{name}_held_out"] = _recognised(*zip(*held_out, strict=True))
    return scores


def _copied(unified: "Unified", count: int, sampling: "Sampling", data_seed: int) -> dict[str, float]:
    """Say how much of a drawn digit is found in one picture that was learned from, beside real ones of handwriting
    that training never saw: the share of the symbols in the middle, and how many have all of them."""
    import torch

    from stages.demo.copies import middle, nearest_share

    things = [thing for thing in THINGS for _ in range(count)]
    batches = _batches(unified, ROOT / "drawn-shards/drawings-train")
    known = torch.cat([unified.numbers("image", batch.inputs["image"])[0] for batch in batches])
    real = unified.numbers("image", {"pixels": real_pictures(things, data_seed, sampling.seed)})[0]
    texts = text_inputs(unified.input_configs["text"], [f"a {thing}" for thing in things])
    drawn = torch.stack(unified.generate({"text": texts}, "image", sampling=sampling))
    found = {}
    for name, units in (("drawn", drawn), ("real", real)):
        shares = nearest_share(middle(units, INKED), middle(known, INKED))
        found[f"{name}_nearest"] = shares.mean().item()
        found[f"{name}_whole"] = (shares == 1).float().mean().item()
    return found


def real_pictures(things: Sequence[Thing], data_seed: int, seed: int) -> "Tensor":
    """Return a picture of each thing (things, 3, height, width), uint8, of the test split's handwriting."""
    import numpy as np
    import torch

    split, rng = make_splits(data_seed)["test"], np.random.default_rng(seed)
    pictures = [np.asarray(draw_thing(thing, split, rng)) for thing in things]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _recognised(asked: Sequence[str], seen: Sequence[str]) -> dict[str, float]:
    pairs = [(one.split(), other.split()) for one, other in zip(asked, seen, strict=True)]
    scores = {
        "digit": sum(one[1] == other[1] for one, other in pairs),
        "colour": sum(one[0] == other[0] for one, other in pairs),
        "both": sum(one == other for one, other in pairs),
    }
    return {**{name: right / len(pairs) for name, right in scores.items()}, "count": len(pairs)}


def _on_test_scenes(unified: "Unified", judge: Judge, sampling: "Sampling") -> dict[str, Any]:
    """Measure on held-out scenes: pictures drawn from captions, the same pictures real and as the tokenizer redraws
    them, and what is said of pictures."""
    import torch

    pixels, redrawn, drawn, captions = [], [], [], []
    said: list[tuple[str, str]] = []
    for batch in _batches(unified, ROOT / "shards/scenes-test"):
        real = batch.inputs["image"]["pixels"]
        texts = _texts(unified, batch)
        pixels.append(real)
        redrawn.append(unified.tokenizers["image"].pixels(unified.numbers("image", batch.inputs["image"])[0]))
        drawn.append(unified.draw({"text": batch.inputs["text"]}, sampling))
        captions += texts
        said += zip(texts, unified.caption({"image": batch.inputs["image"]}), strict=True)
    kinds = {"real": torch.cat(pixels), "redrawn": torch.cat(redrawn), "drawn_scenes": torch.cat(drawn)}
    single = [row for row, text in enumerate(captions) if not parse(text).relation]
    asked = [captions[row].removeprefix("a ") for row in single]
    return {
        **{
            name: {
                **_recognised(asked, judge.things(each[single])),
                "recall_at_1": judge.retrieved(each, captions),
                "scenes": len(captions),
            }
            for name, each in kinds.items()
        },
        "said": _said(said),
    }


def _batches(unified: "Unified", shards: Path) -> Iterator["Batch"]:
    from datamodules.modalities.build import build_modalities
    from datamodules.stream import batches

    modalities = build_modalities(unified.input_configs)
    return batches(shards, modalities, 50, require=list(modalities))


def _texts(unified: "Unified", batch: "Batch") -> list[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(unified.language_model.language_model.tokenizer_json)
    rows = zip(
        batch.inputs["text"]["input_ids"].tolist(), batch.inputs["text"]["attention_mask"], strict=True
    )
    return [tokenizer.decode(ids[: int(mask.sum())], skip_special_tokens=True).strip() for ids, mask in rows]


def _said(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Compare captions with the true ones: word for word, and digits and colours in their places."""
    digits = colours = things = 0
    for true, said in pairs:
        there, here = parse(true).things, _things(said)
        things += len(there)
        for place, thing in enumerate(there):
            if place < len(here):
                digits += thing.digit == here[place].digit
                colours += thing.colour == here[place].colour
    exact = sum(true == said for true, said in pairs)
    return {
        "exact": exact / len(pairs),
        "digit": digits / things,
        "colour": colours / things,
        "count": len(pairs),
    }


def _things(caption: str) -> tuple[Any, ...]:
    try:
        return parse(caption).things
    except ValueError:  # not a sentence of this language
        return Scene(()).things


def table(metrics: Mapping[str, Any]) -> str:
    """Return one line for each thing measured, beside chance."""
    names = {
        "drawn": "drawn from `a red seven`, 60 combinations",
        "drawn_held_out": "  of these, the 10 never seen in training",
        "redrawn_things": "real pictures of these, through the tokenizer",
        "redrawn_things_held_out": "  of these, the 10 never seen in training",
        "real_things": "real pictures of these, as they are",
        "real_things_held_out": "  of these, the 10 never seen in training",
        "drawn_scenes": "drawn from test captions",
        "redrawn": "test pictures, through the tokenizer",
        "real": "test pictures as they are",
        "said_things": "captions of real pictures of single things",
        "said": "captions of test pictures",
        "chance": "chance",
    }
    lines = [f"{'':<46}{'digit':>8}{'colour':>8}{'both':>8}{'exact':>8}{'R@1':>8}"]
    for name, label in names.items():
        scores = metrics[name]
        cells = [scores.get(key) for key in ("digit", "colour", "both", "exact", "recall_at_1")]
        shown = "".join(f"{'' if cell is None else f'{100 * cell:.1f} %':>8}" for cell in cells)
        lines.append(f"{label:<46}{shown}")
    copied = metrics["copied"]
    lines += [
        f"symbols of a digit that one training picture has: drawn {100 * copied['drawn_nearest']:.1f} %, "
        f"real of unseen handwriting {100 * copied['real_nearest']:.1f} %; "
        f"all of them: {100 * copied['drawn_whole']:.1f} %, {100 * copied['real_whole']:.1f} %"
    ]
    return "\n".join(lines)
