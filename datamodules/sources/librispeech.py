"""LibriSpeech: `train-clean-100/19/198/19-198-0000.flac`, its words in `19-198.trans.txt`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datamodules.sources.annotations import BadRecord, json_bytes, media_below, read_lines, samples_of
from datamodules.sources.source import SOUND_SUFFIXES, Dropped, Sample, Source, key_of, walk

SPEAKER_FIELDS = ("sex", "subset", "minutes", "name")
TRANSCRIPT = ".trans.txt"


@dataclass
class LibriSpeech(Source):
    """Read speech with its words; speaker and chapter, from SPEAKERS.TXT also sex and name, go into the metadata."""

    path: Path
    """The folder `LibriSpeech`, or one of its subsets such as `LibriSpeech/train-clean-100`."""
    is_lower_case: bool = False
    """Whether to write the words in lower case; LibriSpeech has them in capitals."""

    def files(self) -> list[Path]:
        if not self.transcripts():
            return []
        return walk(self.path, SOUND_SUFFIXES | {"txt"}) + [file for file in [self.speaker_list()] if file]

    def transcripts(self) -> list[Path]:
        """Return the files of words, one per chapter."""
        return [file for file in walk(self.path, frozenset({"txt"})) if file.name.endswith(TRANSCRIPT)]

    def expects(self) -> str:
        return "SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with .flac files beside it"

    def __len__(self) -> int:
        return len(walk(self.path, SOUND_SUFFIXES))

    def __iter__(self) -> Iterator[Sample | Dropped]:
        speakers = self.speakers()
        for transcript in self.transcripts():
            chapter = transcript.parent.resolve()
            without_words = {file.stem for file in walk(chapter, SOUND_SUFFIXES)}
            for item in samples_of(read_lines(transcript), partial(self.utterance, chapter, speakers)):
                if isinstance(item, Sample):
                    without_words.discard(item.key)
                yield item
            for stem in sorted(without_words):
                yield Dropped(f"{transcript.parent.name}/{stem}", "sound without words")

    def utterance(self, chapter: Path, speakers: dict[str, dict], name: str, line: str) -> Iterator[Sample]:
        """Yield the sample of a line such as `19-198-0000 NORTHANGER ABBEY`."""
        identifier, _, words = line.partition(" ")
        speaker, _, rest = identifier.partition("-")
        if not words.strip() or not rest:
            raise BadRecord("no words")
        file = media_below(chapter, f"{identifier}.flac", SOUND_SUFFIXES, "sound")
        about = {"speaker": speaker, "chapter": chapter.name, **speakers.get(speaker, {})}
        text = words.lower() if self.is_lower_case else words
        yield Sample(
            key_of(identifier), {"flac": file, "txt": text.encode(), "json": json_bytes(about)}, name
        )

    def speaker_list(self) -> Path | None:
        """Return SPEAKERS.TXT, in `path` or the folder above, or None."""
        beside = (folder / "SPEAKERS.TXT" for folder in (Path(self.path), Path(self.path).parent))
        return next((file for file in beside if file.is_file()), None)

    def speakers(self) -> dict[str, dict[str, str]]:
        """Return what SPEAKERS.TXT says of each speaker; nothing where the file is missing."""
        found = self.speaker_list()
        speakers = {}
        for _, line in read_lines(found) if found else ():
            if isinstance(line, str) and not line.startswith(
                ";"
            ):  # 14 | F | train-clean-360 | 25.03 | Kristin …
                identifier, *fields = (field.strip() for field in line.split("|", 4))
                speakers[identifier] = dict(zip(SPEAKER_FIELDS, fields, strict=False))
        return speakers
