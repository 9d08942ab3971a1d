"""draw and caption: what a unify run learned, from the command line: text to pictures, files to text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from modules.unified import Unified

MAX_PICTURES = 256
"""Of one command: what is drawn stays in memory."""
MAX_FILE_BYTES = 1 << 28


def draw(
    parts: Path,
    text: str,
    out: Path,
    count: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    guidance: float = 1.0,
    seed: int = 0,
    allow: list[str] | None = None,
) -> None:
    """Draw what a text says, and write one picture, or several side by side.

    Args:
        parts: The parts/ folder of a unify run.
        text: What to draw.
        out: A file such as drawn.png; its suffix says the format.
        count: How many pictures.
        temperature: Below 1 the likely becomes likelier; 0 draws the likeliest, always the same.
        top_k: Draw each unit from the likeliest so many; 0 from all.
        guidance: Above 1 keeps closer to the text, with less variety; 1 draws as the model says.
        seed: Another one draws other pictures.
        allow: Packages outside this project whose classes a part may name.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when the text is empty or too long, or the model draws no pictures.
    """
    from PIL import Image

    from modules.unified import Sampling, Unified

    if not 1 <= count <= MAX_PICTURES:
        raise ValueError(f"count is {count}: expected from 1 to {MAX_PICTURES}")
    if out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{out} has no suffix of a picture format: expected one such as .png")
    sampling = Sampling(temperature, top_k, seed, guidance)
    unified = Unified.load(parts, allow)
    inputs = _text_inputs(unified, text)
    repeated = {name: tensor.expand(count, -1) for name, tensor in inputs.items()}
    pixels = unified.draw({"text": repeated}, sampling)
    out.parent.mkdir(parents=True, exist_ok=True)
    row = pixels.permute(2, 0, 3, 1).flatten(1, 2)  # (height, pictures × width, 3)
    Image.fromarray(row.numpy()).save(out)
    print(out)


def caption(
    parts: Path,
    files: list[Path],
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
    allow: list[str] | None = None,
) -> None:
    """Say in words what files show, or what is said in them: one line for each file.

    Args:
        parts: The parts/ folder of a unify run.
        files: Pictures or sounds, of the modalities that the model knows.
        temperature: 0 says the likeliest; above 0, what is said is drawn.
        top_k: Draw each token from the likeliest so many; 0 from all.
        seed: Of the draw.
        allow: Packages outside this project whose classes a part may name.

    Raises:
        FileNotFoundError: when a file is not there.
        ValueError: when a file is of no modality that the model knows, or cannot be decoded.
    """
    from datamodules.modalities.bad_sample import BadSample
    from datamodules.modalities.build import build_modalities
    from modules.unified import Sampling, Unified

    sampling = Sampling(temperature, top_k, seed)
    unified = Unified.load(parts, allow)
    modalities = build_modalities(
        {name: config for name, config in unified.input_configs.items() if name != "text"}
    )
    known = {member: name for name, modality in modalities.items() for member in modality.members}
    for file in files:
        member = file.suffix.lower().lstrip(".")
        if member not in known:
            raise ValueError(f"{file} is none of .{', .'.join(known)}, which the model reads")
        if (size := file.stat().st_size) > MAX_FILE_BYTES:
            raise ValueError(f"{file} has {size} bytes, expected at most {MAX_FILE_BYTES}")
        modality = modalities[known[member]]
        try:
            value = modality.decode(file.read_bytes(), member)
        except BadSample as bad:
            raise ValueError(f"{file} cannot be read ({bad}): expected a whole {known[member]} file") from bad
        print(f"{file}: {unified.caption({known[member]: modality.collate([value])}, sampling)[0]}")


def _text_inputs(unified: "Unified", text: str) -> dict[str, "Tensor"]:
    """Return a text's ids and mask, whole.

    Raises:
        ValueError: when it is empty, or longer than the model was trained for.
    """
    from datamodules.modalities.bad_sample import BadSample
    from datamodules.modalities.build import build_modalities

    config: dict[str, Any] = unified.input_configs["text"]
    most = config["init_args"]["max_tokens"]
    whole = {**config, "init_args": {**config["init_args"], "max_tokens": most + 1}}
    modality = build_modalities({"text": whole})["text"]
    try:
        inputs = modality.collate([modality.decode(text.encode(), "txt")])
    except BadSample as bad:
        raise ValueError(f"the text cannot be read ({bad}): expected something to draw") from bad
    if inputs["input_ids"].shape[1] > most:
        raise ValueError(f"the text has more than {most} tokens, which the model takes: shorten it")
    return inputs
