"""Localized Narratives: people describe images aloud; their words as JSON lines, their voices as OGG."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.sources.annotations import (
    BadRecord,
    check_records,
    estimate_count,
    json_bytes,
    media_below,
    read_json_lines,
    require_files,
    samples_of,
    text_of,
)
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Dropped, Sample, Source, key_of, walk


@dataclass
class LocalizedNarratives(Source):
    """Images with what was said about them, and the voice where it was downloaded.

    A line is `{"dataset_id", "image_id", "annotator_id", "caption", "voice_recording", …}`; pointer traces and times of
    words are left out.
    """

    path: Path
    """The folder of the data set."""
    narratives: Path = Path("open_images_train_v6_captions.jsonl")
    """The narratives; relative to `path`."""
    images: Path = Path("train")
    """The folder of the images, each named after its `image_id`; relative to `path`."""
    voices: Path = Path("voice-recordings")
    """The folder that `voice_recording` is relative to; relative to `path` itself."""

    def files(self) -> list[Path]:
        root = Path(self.path)
        media = [*walk(root / self.images, IMAGE_SUFFIXES), *walk(root / self.voices, SOUND_SUFFIXES)]
        return [root / self.narratives, *media]

    def check(self) -> None:
        narratives = Path(self.path) / self.narratives
        if Path(self.path).exists():
            require_files(narratives=narratives)
        super().check()
        check_records(read_json_lines(narratives), narratives, "a narrative in each line")

    def __len__(self) -> int:
        return estimate_count(Path(self.path) / self.narratives)

    def __iter__(self) -> Iterator[Sample | Dropped]:
        images, voices = ((Path(self.path) / folder).resolve() for folder in (self.images, self.voices))

        def narrated(name: str, record: dict) -> Iterator[Sample]:
            identifier, text = text_of(record, "image_id"), text_of(record, "caption")
            members = {"jpg": media_below(images, f"{identifier}.jpg", IMAGE_SUFFIXES, "image")}
            if record.get("voice_recording"):
                try:
                    voice = media_below(voices, record["voice_recording"], SOUND_SUFFIXES, "voice")
                    members[voice.suffix[1:].lower()] = voice
                except BadRecord as error:
                    if "not found" not in str(error):
                        raise  # voices are a download of their own, and may be missing
            about = {field: record.get(field) for field in ("dataset_id", "image_id", "annotator_id")}
            members |= {"txt": text.encode("utf-8", "replace"), "json": json_bytes(about)}
            yield Sample(key_of(f"{identifier}-{record.get('annotator_id', 0)}"), members, name)

        yield from samples_of(read_json_lines(Path(self.path) / self.narratives), narrated)
