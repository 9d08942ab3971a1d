"""What img2dataset downloaded, in each of its formats that holds media: files, webdataset, parquet."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as replaced
from functools import lru_cache
from pathlib import Path

from datamodules.shards.errors import ShardError
from datamodules.shards.reader import ShardReader
from datamodules.sources.annotations import BadRecord, Records, json_bytes, samples_of
from datamodules.sources.parquet import open_parquet, read_parquet
from datamodules.sources.source import IMAGE_SUFFIXES, Dropped, Note, Sample, Source, key_of, walk

SUCCESS = "success"
MAX_REASONS = 50
MAX_METADATA_BYTES = 1 << 20


@dataclass
class Img2Dataset(Source):
    """Downloaded images with their captions; url, sizes and whatever else is known go into the metadata.

    A shard is `00000/000000000.jpg`, `.txt` and `.json` (format files), `00000.tar` (webdataset) or `00000.parquet`
    alone (parquet). Beside the first two lies a `00000.parquet` that also tells what was not downloaded and why; that
    is counted as dropped where pyarrow is installed.
    """

    path: Path
    """The `output_folder`."""
    caption: str = "caption"
    """The field of the metadata that is the text where there is no `.txt`."""

    def files(self) -> list[Path]:
        return walk(self.path, IMAGE_SUFFIXES | {"txt", "json", "tar", "parquet"}) if self.shards() else []

    def shards(self) -> list[Path]:
        """Return each shard: a folder, a tar, or a Parquet file that has neither beside it."""
        found = sorted(Path(self.path).glob("*"))
        others = [file for file in found if file.stem.isdigit() and (file.is_dir() or file.suffix == ".tar")]
        stems = {file.stem for file in others}
        alone = [
            file
            for file in found
            if file.suffix == ".parquet" and file.stem.isdigit() and file.stem not in stems
        ]
        return sorted(others + alone)

    def expects(self) -> str:
        return "img2dataset's output_folder: 00000.tar, 00000.parquet or 00000/000000000.jpg"

    def check(self) -> None:
        super().check()
        for shard in self.shards():
            if shard.suffix == ".parquet":
                with open_parquet(shard, ("key", "status")) as file:
                    if not IMAGE_SUFFIXES & set(file.schema_arrow.names):
                        raise ValueError(
                            f"{shard} has no column of images, and no 00000.tar or folder beside it."
                        )
                return

    def __iter__(self) -> Iterator[Sample | Dropped]:
        reasons: set[str] = set()
        for shard in self.shards():
            if shard.suffix == ".parquet":
                yield from samples_of(read_parquet_whole(shard), self.row)
                continue
            for name, status, error in failures(shard.with_suffix(".parquet")):
                reason = f"{status}: {error}"[:80]
                if len(reasons) < MAX_REASONS:
                    reasons.add(reason)
                yield Dropped(f"{shard.stem}/{name}", reason if reason in reasons else status)
            yield from self.in_folder(shard) if shard.is_dir() else self.in_tar(shard)

    def in_folder(self, shard: Path) -> Iterator[Sample | Dropped]:
        """Yield the samples of a folder, format files."""
        for image in walk(shard, IMAGE_SUFFIXES):
            members = {image.suffix[1:].lower(): image}
            beside = {suffix: image.with_suffix(f".{suffix}") for suffix in ("txt", "json")}
            members |= {suffix: file for suffix, file in beside.items() if file.is_file()}
            yield Sample(key_of(image.stem), members, f"{shard.name}/{image.stem}")

    def in_tar(self, shard: Path) -> Iterator[Sample | Dropped]:
        """Yield where the samples of a tar lie, format webdataset."""
        try:
            reader = reader_of(shard)
        except (ShardError, OSError) as error:
            yield Dropped(f"{shard.name} ({error})", "unreadable shard")
            return
        for reason, left_out in reader.left_out().items():
            names = left_out.names + ["…"] * (left_out.count - len(left_out.names))
            yield from (Dropped(f"{shard.name}/{name}", reason.replace("_", " ")) for name in names)
        for place in range(len(reader)):
            key = reader.key(place)
            yield Sample(key_of(key), {"tar": shard, "place": str(place).encode()}, f"{shard.name}/{key}")

    def row(self, name: str, row: dict) -> Iterator[Sample]:
        """Yield the sample of a row, format parquet."""
        if row.get("status") != SUCCESS:
            raise BadRecord(f"{row.get('status')}: {row.get('error_message')}"[:80])
        images = {suffix: row.pop(suffix) for suffix in IMAGE_SUFFIXES & row.keys()}
        members = {suffix: image for suffix, image in images.items() if isinstance(image, bytes)}
        if not members:
            raise BadRecord("no image")
        text = row.pop("txt", None) or row.get(self.caption)
        if isinstance(text, str):
            members["txt"] = text.encode("utf-8", "replace")
        yield Sample(key_of(str(row.get("key"))), members | {"json": json_bytes(row)}, name)

    def expand(self, sample: Sample) -> Iterator[Sample | Dropped | Note]:
        """Read what lies in a tar, and take the caption from the metadata where there is no other."""
        members = dict(sample.members)
        if "tar" in members:
            reader, place = reader_of(members.pop("tar")), int(members.pop("place"))
            kept = IMAGE_SUFFIXES | {"txt", "json"}
            members = {suffix: reader.read(place, suffix) for suffix in kept & set(reader.extensions(place))}
        if not IMAGE_SUFFIXES & members.keys():
            yield Dropped(sample.name, "no image")
            return
        about = metadata_of(members.get("json"))
        if about.get("status", SUCCESS) != SUCCESS:
            yield Dropped(sample.name, f"{about['status']}: {about.get('error_message')}"[:80])
            return
        if "txt" not in members and isinstance(about.get(self.caption), str):
            members["txt"] = about[self.caption].encode("utf-8", "replace")
        yield replaced(sample, members=members)


@lru_cache(maxsize=8)
def reader_of(shard: Path) -> ShardReader:
    """Return the reader of a tar; one process reads many samples of the same."""
    return ShardReader(shard)


def read_parquet_whole(shard: Path) -> Records:
    """Yield the rows of a Parquet file with all its columns."""
    with open_parquet(shard) as file:
        columns = file.schema_arrow.names
    return read_parquet(shard, columns)


def failures(metadata: Path) -> Iterator[tuple[str, str, str]]:
    """Yield key, status and error of what was not downloaded; nothing where that is not known."""
    if not metadata.is_file():
        return
    try:
        rows = read_parquet(metadata, ("key", "status"), ("error_message",))
        for _, row in rows:
            if not isinstance(row, BadRecord) and row["status"] != SUCCESS:
                yield str(row["key"]), str(row["status"]), str(row.get("error_message"))
    except (ImportError, ValueError):
        return  # what is in the shard itself can be read without


def metadata_of(member: bytes | Path | None) -> dict:
    """Return a sample's metadata, nothing where it is missing or no JSON."""
    try:
        data = member.read_bytes() if isinstance(member, Path) else member or b""
        about = json.loads(data) if len(data) <= MAX_METADATA_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}
