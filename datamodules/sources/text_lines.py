"""Plain text files, a sentence per line."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.preparation.tokenizer import train_tokenizer
from datamodules.sources.source import Dropped, Note, Sample, Source, key_of, walk


@dataclass
class TextLines(Source):
    """Unpaired text: every line of a UTF-8 file, or of each `.txt` below a folder, is one sample."""

    path: Path
    """A text file, or a folder of them."""
    vocab_size: int | None = None
    """Learn a byte-level BPE tokenizer of this size from the lines, and leave it as `tokenizer.json` in the set."""

    def files(self) -> list[Path]:
        path = Path(self.path)
        return walk(path, frozenset({"txt"})) if path.is_dir() else [path] * (path.stat().st_size > 0)

    def expects(self) -> str:
        return "a text file with a sentence per line, or a folder of .txt files"

    def __len__(self) -> int:
        return sum(file.read_bytes().count(b"\n") for file in self.files())

    def __iter__(self) -> Iterator[Sample | Dropped]:
        for file in self.files():
            stem = file.relative_to(self.root()).with_suffix("").as_posix()
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    yield Sample(
                        f"{key_of(stem)}-{number:08d}", {"txt": line.rstrip(b"\r\n")}, f"{stem}:{number}"
                    )

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        if self.vocab_size is None:
            return {}
        tokenizer = train_tokenizer(self.lines(), self.vocab_size)
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        return {
            "tokenizer": {
                "vocab_size": self.vocab_size,
                "sha256": hashlib.sha256(tokenizer.encode()).hexdigest(),
            }
        }

    def lines(self) -> Iterator[str]:
        """Yield every line as text; what is not UTF-8 in it is replaced, since such lines are dropped elsewhere."""
        for file in self.files():
            with file.open(encoding="utf-8", errors="replace") as lines:
                yield from (line.rstrip("\r\n") for line in lines)
