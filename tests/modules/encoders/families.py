"""Small models of each family, saved as their libraries save them, and the encoders that load them."""

from collections.abc import Callable
from pathlib import Path

import torch

from modules.encoders.encoder import Encoder

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXTS = {
    "bert": {**SIZES},
    "roberta": {**SIZES, "max_position_embeddings": 130},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "llama": {**SIZES, "num_key_value_heads": 2},
}
IMAGES = {
    "vit": {**SIZES, "image_size": 32, "patch_size": 8},
    "dinov2": {
        **{name: size for name, size in SIZES.items() if name != "intermediate_size"},
        "image_size": 32,
        "patch_size": 8,
    },
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "mobilevit": {
        "image_size": 32,
        "hidden_sizes": [8, 12, 16],
        "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16],
        "num_attention_heads": 2,
    },
}
CONVOLUTIONS = {
    "conv_dim": [8, 8],
    "conv_kernel": [10, 8],
    "conv_stride": [5, 4],
    "num_conv_pos_embeddings": 8,
}
SOUNDS = {
    "wav2vec2": {**SIZES, **CONVOLUTIONS, "num_conv_pos_embedding_groups": 2},
    "wav2vec2-large": {
        **SIZES,
        **CONVOLUTIONS,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
    "hubert": {**SIZES, **CONVOLUTIONS, "num_conv_pos_embedding_groups": 2},
    "whisper": {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_mel_bins": 20,
        "max_source_positions": 50,
        "vocab_size": 60,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "decoder_start_token_id": 0,
    },
    "audio-spectrogram-transformer": {**SIZES, "max_length": 98, "num_mel_bins": 32, "patch_size": 16},
}
MAE = {**SIZES, "model_type": "vit_mae", "image_size": 32, "patch_size": 8, "mask_ratio": 0.5}
LLAMA = {**SIZES, "model_type": "llama", "num_key_value_heads": 2}
TIMESFORMER = {**SIZES, "image_size": 32, "patch_size": 16, "num_frames": 4}
CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TIMM = {
    "resnet10t": {},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
    },
}


def library_model(kind: str, sizes: dict, **more):
    """Return a transformers model with random weights that carry a signal through: the library's own are near zero."""
    from transformers import CONFIG_MAPPING, AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIG_MAPPING[kind.removesuffix("-large")](**{**sizes, **more})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def save_text(kind: str, folder: Path, tokenizer_path: str) -> Path:
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_path, **special)
    more = {} if kind == "gpt2" else {"pad_token_id": tokenizer.pad_token_id}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    library_model(kind, TEXTS[kind], vocab_size=len(tokenizer) + 3, **more, **ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_image(kind: str, folder: Path) -> Path:
    from transformers import ConvNextImageProcessor, MobileViTImageProcessor, ViTImageProcessor

    model = library_model(kind, IMAGES[kind]).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # it takes over what it sees, and passes it on in its full strength
    with torch.no_grad():
        model(inputs_of("image")["pixels"] / 255)
    model.save_pretrained(folder)
    processors = {
        "resnet": ConvNextImageProcessor(size={"shortest_edge": 32}),
        "mobilevit": MobileViTImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
        ),
    }
    processor = processors.get(kind) or ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(folder)
    return folder


def sound_extractor(kind: str):
    """Return the library's own front end for a kind of SOUNDS."""
    from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    if kind == "whisper":
        return WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    if kind == "audio-spectrogram-transformer":
        return ASTFeatureExtractor(num_mel_bins=32, max_length=98, mean=-3.0, std=2.0)
    return Wav2Vec2FeatureExtractor(do_normalize=True)


def save_sound(kind: str, folder: Path) -> Path:
    library_model(kind, SOUNDS[kind]).save_pretrained(folder)
    sound_extractor(kind).save_pretrained(folder)
    return folder


def save_video(folder: Path) -> Path:
    from transformers import VideoMAEImageProcessor

    library_model("timesformer", TIMESFORMER).save_pretrained(folder)
    VideoMAEImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


def save_clip(folder: Path):
    """Save a model of open_clip as its hub has them, and return the model."""
    import json

    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP).eval()
    folder.mkdir(parents=True)
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    text = json.dumps({"model_cfg": CLIP, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def save_timm(kind: str, folder: Path) -> Path:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model(kind, num_classes=0, **TIMM[kind])
    model.pretrained_cfg["input_size"] = (3, 32, 32)
    save_for_hf(model, folder, model_args=TIMM[kind], safe_serialization=True)
    return folder


def builders(tokenizer_path: str) -> dict[str, Callable[[Path], Encoder]]:
    """Return by family's name what makes its encoder from a folder that does not exist yet."""
    from modules.encoders.audio import AudioEncoder
    from modules.encoders.audio_spectrogram_transformer import AudioSpectrogramTransformer
    from modules.encoders.discrete_units import DiscreteUnits
    from modules.encoders.frame_pooling import FramePooling
    from modules.encoders.huggingface import ImageEncoder, TextEncoder
    from modules.encoders.image_tokenizer import ImageTokenizer
    from modules.encoders.mfcc import MFCCEncoder
    from modules.encoders.open_clip import OpenClipImageEncoder, OpenClipTextEncoder
    from modules.encoders.timesformer import TimeSformerEncoder
    from modules.encoders.timm import TimmEncoder
    from modules.encoders.vit_mae import MaskedAutoencoderViT
    from modules.encoders.wav2vec import Wav2VecEncoder
    from modules.encoders.waveform_cnn import WaveformCNN
    from modules.encoders.whisper import WhisperEncoder
    from modules.language_model import LanguageModel

    trunk = {"model_type": "modernbert", **SIZES, "global_attn_every_n_layers": 1}

    def clip(encoder, **options):
        return lambda folder: save_clip(folder) and encoder(str(folder), **options)

    def fitted(folder: Path) -> DiscreteUnits:
        units = DiscreteUnits(Wav2VecEncoder(str(save_sound("hubert", folder))), num_units=5, dim=8)
        units.fit([sound_inputs()])
        return units

    def pooled(pooling: str):
        return lambda folder: FramePooling(
            ImageEncoder(str(save_image("resnet", folder))), pooling=pooling, num_frames=4
        )

    made = {
        **{
            f"text-{kind}": lambda folder, kind=kind: TextEncoder(
                str(save_text(kind, folder, tokenizer_path))
            )
            for kind in TEXTS
        },
        "text-gpt2-last": lambda folder: TextEncoder(
            str(save_text("gpt2", folder, tokenizer_path)), last_only=True
        ),
        **{
            f"image-{kind}": lambda folder, kind=kind: ImageEncoder(str(save_image(kind, folder)))
            for kind in IMAGES
        },
        **{
            f"image-timm-{kind}": lambda folder, kind=kind: TimmEncoder(str(save_timm(kind, folder)))
            for kind in TIMM
        },
        "text-language_model": lambda folder: LanguageModel(config=LLAMA, tokenizer=tokenizer_path),
        "image-mae": lambda folder: MaskedAutoencoderViT(config=MAE),
        "image-tokenizer": lambda folder: ImageTokenizer(image_size=32, patch_size=8, channels=16),
        "image-open_clip": clip(OpenClipImageEncoder),
        "image-open_clip-pooled": clip(OpenClipImageEncoder, pooled=True),
        "text-open_clip": clip(OpenClipTextEncoder),
        "text-open_clip-pooled": clip(OpenClipTextEncoder, pooled=True),
        **{
            f"audio-{kind}": lambda folder, kind=kind: Wav2VecEncoder(str(save_sound(kind, folder)))
            for kind in ("wav2vec2", "wav2vec2-large", "hubert")
        },
        "audio-whisper": lambda folder: WhisperEncoder(str(save_sound("whisper", folder))),
        "audio-ast": lambda folder: AudioSpectrogramTransformer(
            str(save_sound("audio-spectrogram-transformer", folder))
        ),
        "audio-log_mel": lambda folder: AudioEncoder(trunk, num_mels=20),
        "audio-mfcc": lambda folder: MFCCEncoder(trunk),
        "audio-waveform": lambda folder: WaveformCNN(16, kernels=(10, 8), strides=(5, 4)),
        "audio-units": fitted,
        "video-timesformer": lambda folder: TimeSformerEncoder(str(save_video(folder))),
        "video-mean": pooled("mean"),
        "video-attention": pooled("attention"),
    }
    return made


def sound_inputs() -> dict[str, torch.Tensor]:
    lengths = torch.tensor([8000, 4100, 900])
    waveform = 0.1 * torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))
    return {"waveform": waveform * (torch.arange(8000) < lengths.unsqueeze(1)), "lengths": lengths}


def inputs_of(modality: str) -> dict[str, torch.Tensor]:
    """Return Inputs of three rows, of which the second and third are shorter where rows have lengths."""
    random = torch.Generator().manual_seed(0)
    if modality == "audio":
        return sound_inputs()
    if modality == "text":
        mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
        return {"input_ids": torch.randint(10, 90, (3, 7), generator=random) * mask, "attention_mask": mask}
    if modality == "video":
        pixels = torch.randint(0, 256, (3, 4, 3, 32, 32), generator=random).to(torch.uint8)
        return {"pixels": pixels, "mask": torch.arange(4) < torch.tensor([[4], [2], [1]])}
    return {"pixels": torch.randint(0, 256, (3, 3, 32, 32), generator=random).to(torch.uint8)}
