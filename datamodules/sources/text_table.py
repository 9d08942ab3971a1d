"""Tables of text, such as extracts of Common Crawl: JSON lines, packed or not, and Parquet."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.sources.annotations import (
    BadRecord,
    Records,
    check_records,
    estimate_count,
    json_bytes,
    read_json_lines,
    samples_of,
    text_of,
)
from datamodules.sources.parquet import open_parquet, read_parquet
from datamodules.sources.source import Dropped, Sample, Source, key_of, walk

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".json.gz")


@dataclass
class TextTable(Source):
    """Unpaired text, a sample per row: FineWeb's `000_00000.parquet`, C4's `c4-train.00000-of-01024.json.gz`."""

    path: Path
    """A file, or a folder of them; those below it are walked as well."""
    text: str = "text"
    """The field that is the text; OSCAR calls it `content`."""
    metadata: list[str] = field(default_factory=list)
    """Fields to keep, such as `[url, language]`; a sample has no `.json` without."""

    def files(self) -> list[Path]:
        path = Path(self.path)
        found = walk(path, frozenset({"parquet", "jsonl", "gz"})) if path.is_dir() else [path]
        return [file for file in found if file.name.endswith(ENDINGS) and file.stat().st_size]

    def expects(self) -> str:
        return f"files ending in {', '.join(ENDINGS)}"

    def check(self) -> None:
        super().check()
        for file in self.files():
            if file.suffix == ".parquet":
                open_parquet(file, [self.text]).close()
        first = self.files()[0]
        check_records(
            ((name, self.checked(row)) for name, row in self.rows(first)), first, f"text as `{self.text}`"
        )

    def checked(self, row: object) -> object:
        """Return a row, or a BadRecord if it has no text."""
        has_text = isinstance(row, dict) and isinstance(row.get(self.text), str)
        return row if isinstance(row, BadRecord) or has_text else BadRecord(f"no {self.text}")

    def __len__(self) -> int:
        total = 0
        for file in self.files():
            if file.suffix == ".parquet":
                with open_parquet(file) as table:
                    total += table.metadata.num_rows
            else:
                total += estimate_count(file)
        return total

    def __iter__(self) -> Iterator[Sample | Dropped]:
        for file in self.files():
            stem = file.relative_to(self.root()).as_posix()
            stem = key_of(stem.removesuffix(next(ending for ending in ENDINGS if stem.endswith(ending))))

            def written(name: str, row: dict, stem: str = stem) -> Iterator[Sample]:
                members = {"txt": text_of(row, self.text).encode("utf-8", "replace")}
                kept = {key: row[key] for key in self.metadata if key in row}
                members |= {"json": json_bytes(kept)} if kept else {}
                yield Sample(f"{stem}-{int(name.rpartition(':')[2]):09d}", members, name)

            yield from samples_of(self.rows(file), written)

    def rows(self, file: Path) -> Records:
        """Yield the rows of one file."""
        if file.suffix == ".parquet":
            return read_parquet(file, [self.text], self.metadata)
        return read_json_lines(file)
