"""COCO's captions: `annotations/captions_train2017.json` beside `train2017/000000391895.jpg`."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.sources.annotations import (
    BadRecord,
    Records,
    checked_text,
    json_bytes,
    media_below,
    require_files,
    samples_of,
)
from datamodules.sources.json_records import read_records
from datamodules.sources.source import IMAGE_SUFFIXES, Dropped, Sample, Source, walk


@dataclass
class CocoCaptions(Source):
    """Captioned images: `{"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}`.

    By default each of an image's five captions is a sample with the image, and the shards hold it as often.
    """

    path: Path
    """The folder of the data set."""
    annotations: Path = Path("annotations/captions_train2017.json")
    """The captions; relative to `path`."""
    images: Path = Path("train2017")
    """The folder of the images; relative to `path`."""
    captions: Literal["each", "first"] = "each"
    """`each`: a sample per caption. `first`: one per image, the first as text, all of them in the metadata."""

    def files(self) -> list[Path]:
        return [self.annotation_file(), *walk(Path(self.path) / self.images, IMAGE_SUFFIXES)]

    def annotation_file(self) -> Path:
        """Return where the captions lie."""
        return Path(self.path) / self.annotations

    def check(self) -> None:
        if Path(self.path).exists():
            require_files(annotations=self.annotation_file())
        super().check()
        for key in ("images", "annotations"):
            if not sum(1 for _ in read_records(self.annotation_file(), key)):
                raise ValueError(f"{self.annotation_file()} holds no `{key}`; expected COCO's captions.")

    def __len__(self) -> int:
        return sum(1 for _ in read_records(self.annotation_file(), "annotations"))

    def __iter__(self) -> Iterator[Sample | Dropped]:
        captions: dict[int, list[tuple]] = defaultdict(list)
        for number, annotation in enumerate(read_records(self.annotation_file(), "annotations")):
            identifier = annotation.get("image_id") if isinstance(annotation, dict) else None
            if isinstance(identifier, int):
                captions[identifier].append((annotation.get("id"), annotation.get("caption")))
            else:
                yield Dropped(f"annotation {number}", "annotation without an image_id")
        yield from samples_of(self.images_with(captions), self.samples)
        for identifier in captions:
            yield Dropped(f"image {identifier}", "captions of an image that is not listed")

    def images_with(self, captions: dict[int, list[tuple]]) -> Records:
        """Yield each image's record and its captions, pairs of id and text, which are taken out of `captions`."""
        for number, image in enumerate(read_records(self.annotation_file(), "images")):
            identifier = image.get("id") if isinstance(image, dict) else None
            if isinstance(identifier, int):
                yield f"image {identifier}", (image, captions.pop(identifier, []))
            else:
                yield f"images[{number}]", BadRecord("image without an id")

    def samples(self, name: str, record: tuple[dict, list[tuple]]) -> Iterator[Sample | Dropped]:
        """Yield the samples of one image."""
        image, captions = record
        root = (Path(self.path) / self.images).resolve()
        file = media_below(root, image.get("file_name"), IMAGE_SUFFIXES, "image")
        if not captions:
            raise BadRecord("image without captions")
        about = {"image_id": image["id"], "width": image.get("width"), "height": image.get("height")}
        key, suffix = f"{image['id']:012d}", file.suffix[1:].lower()
        if self.captions == "first":
            texts = [checked_text(caption, "caption") for _, caption in captions]
            members = {suffix: file, "txt": texts[0].encode("utf-8", "replace")}
            yield Sample(key, members | {"json": json_bytes(about | {"captions": texts})}, name)
            return
        for number, (identifier, caption) in enumerate(captions):
            try:
                text = checked_text(caption, "caption").encode("utf-8", "replace")
            except BadRecord as error:
                yield Dropped(f"{name}, caption {number}", str(error))
                continue
            member = json_bytes(about | {"caption_id": identifier})
            yield Sample(f"{key}-{number}", {suffix: file, "txt": text, "json": member}, name)
