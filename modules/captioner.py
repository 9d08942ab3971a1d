"""Captioner: pictures to short texts by a pretrained model of the transformers library."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

BLOCK_BYTES = 1 << 20


class CaptionerError(ValueError):
    """A model that cannot caption pictures."""


class Captioner:
    """Describes pictures, greedily: the same picture gets the same text.

    Takes what transformers knows as image-text-to-text (BLIP, BLIP-2, GIT, …) or as a vision encoder with a text
    decoder (ViT-GPT2). Only safetensors are read, and no code that comes with a model is run.

    Args:
        name_or_path: a folder of `save_pretrained`, or a model's name on the hub.
        revision: commit or tag of a model on the hub; a tag may move, a commit does not.
        prompt: what the caption begins with, for models that take one, such as `a photo of`.
        max_new_tokens: longer captions are cut.
        device: where it runs.

    Raises:
        CaptionerError: it is no such model, or its weights do not fill it.
        OSError: it is not there.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        revision: str | None = None,
        prompt: str = "",
        max_new_tokens: int = 40,
        device: str | torch.device = "cpu",
    ) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        self.name_or_path, self.prompt, self.max_new_tokens = name_or_path, prompt, max_new_tokens
        self.device = torch.device(device)
        folder = find_model(name_or_path, revision)
        try:
            self.images = AutoImageProcessor.from_pretrained(folder)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True
            )
        except ValueError as error:
            raise CaptionerError(
                f"{name_or_path} cannot caption: expected a model such as BLIP, GIT or ViT-GPT2 ({error})"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise CaptionerError(
                f"{name_or_path} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:5])}); "
                "expected a whole checkpoint"
            )
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """Return a caption for each picture (height, width, 3), uint8; an empty one where the model says nothing."""
        if not pictures:
            return []
        pixels = self.images(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.device)
        inputs = {"pixel_values": pixels, **self._prompted(len(pictures))}
        said = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _prompted(self, rows: int) -> dict[str, torch.Tensor]:
        """Return the prompt's tokens for each row, as the family of the model takes them."""
        if not self.prompt:
            return {}
        family = self.model.config.model_type
        ids = self.tokenizer(self.prompt, add_special_tokens=family != "vision-encoder-decoder")["input_ids"]
        if family == "vision-encoder-decoder":
            ids = [self.model.generation_config.decoder_start_token_id, *ids]
        elif family != "blip" and ids[-1] in (self.tokenizer.sep_token_id, self.tokenizer.eos_token_id):
            ids = ids[
                :-1
            ]  # BLIP takes the mark of the end off by itself; others would have nothing more to say
        tensor = torch.tensor([ids] * rows, device=self.device)
        if family == "vision-encoder-decoder":
            return {"decoder_input_ids": tensor}
        return {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}


def find_model(name_or_path: str, revision: str | None = None) -> Path:
    """Return a local folder as it is, or the snapshot of a hub's model, which is named by its commit."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    return Path(snapshot_download(name_or_path, revision=revision, allow_patterns=patterns))


def sha256_of(folder: Path) -> str:
    """Return the sha256 over names and content of the weights and configs in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as content:
            while block := content.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
