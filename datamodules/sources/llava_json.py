"""Instructions in LLaVA's JSON layout: conversations about an image, a sound, or both."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Dropped, Sample, Source, key_of

SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES}
ROLES = ("human", "gpt")


class BadRecord(ValueError):
    """A record that breaks the layout; its message is the reason under which it is counted."""


@dataclass
class LlavaJson(Source):
    """LLaVA's records: `{"id", "task", "image", "audio", "conversations": [{"from", "value"}, …]}`.

    The file is a JSON list of records or one record per line. Each `<image>` and `<audio>` tag in the turns stands
    for the file of that name. A record that breaks the layout is dropped and counted; media are never fetched.
    """

    path: Path
    """The JSON file."""
    media_root: Path | None = None
    """The folder that paths of media are relative to and may not leave; by default that of the JSON file."""

    def files(self) -> list[Path]:
        return [Path(self.path)] if self.records else []

    def check(self) -> None:
        super().check()
        if self.media_root and not Path(self.media_root).is_dir():
            raise FileNotFoundError(
                f"media_root {self.media_root} is not a folder; expected that of the media."
            )

    def expects(self) -> str:
        return "a JSON list of LLaVA records"

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def records(self) -> list:
        return read_records(Path(self.path))

    def __iter__(self) -> Iterator[Sample | Dropped]:
        seen: set[str] = set()
        root = (self.media_root or Path(self.path).parent).resolve()
        for number, record in enumerate(self.records):
            name = f"record {number}"
            try:
                members, turns = media_of(record, root), turns_of(record)
                check_tags(turns, members)
            except BadRecord as error:
                yield Dropped(name, str(error))
                continue
            identifier = str(record.get("id", ""))
            if not identifier or identifier in seen:
                identifier = f"{identifier or 'record'}-{number}"
            seen.add(identifier)
            kept = {"id": identifier, "task": str(record.get("task", "")), "conversations": turns}
            members["json"] = json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace")
            yield Sample(key_of(identifier), members, f"{name} ({identifier})")


def read_records(path: Path) -> list:
    """Read a JSON list of records, or one record per line.

    Raises:
        ValueError: the file is not UTF-8 JSON (the message gives the place), or holds something else than records.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        is_list = text.lstrip().startswith("[")
        records = (
            json.loads(text) if is_list else [json.loads(line) for line in text.splitlines() if line.strip()]
        )
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply; expected a list of LLaVA records.") from None
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); expected UTF-8 JSON, a list of LLaVA records."
        ) from None
    found = next((type(record).__name__ for record in records if not isinstance(record, dict)), None)
    if found:
        raise ValueError(f"{path} holds a {found} in its list; expected objects with `conversations`.")
    if not is_list and not any("conversations" in record for record in records):
        raise ValueError(f"{path} holds one object; expected a list of objects with `conversations`.")
    return records


def turns_of(record: dict) -> list[dict[str, str]]:
    """Return the checked turns: human and gpt in turn, human first, gpt last, each with something to say."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise BadRecord("no conversation")
    if not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns):
        raise BadRecord("turn without text")
    if any(turn.get("from") not in ROLES for turn in turns):
        raise BadRecord("unknown role")
    if len(turns) % 2 or any(turn["from"] != ROLES[index % 2] for index, turn in enumerate(turns)):
        raise BadRecord("turns do not alternate from human to gpt")
    if not all(turn["value"].strip() for turn in turns):
        raise BadRecord("empty turn")
    return [{"from": turn["from"], "value": turn["value"]} for turn in turns]


def media_of(record: dict, root: Path) -> dict[str, bytes | Path]:
    """Return the record's media by suffix, each a file below `root`."""
    members: dict[str, bytes | Path] = {}
    for kind, suffixes in SUFFIXES.items():
        listed = record.get(kind) or []
        for given in listed if isinstance(listed, list) else [listed]:
            if not isinstance(given, str):
                raise BadRecord(f"{kind} is not a path")
            if "://" in given or given.startswith("data:"):
                raise BadRecord(f"{kind} is a URL")
            file = (root / given).resolve() if "\0" not in given else root
            if not file.is_relative_to(root):
                raise BadRecord(f"{kind} lies outside media_root")
            suffix = file.suffix[1:].lower()
            if suffix not in suffixes or not file.is_file():
                raise BadRecord(f"{kind} not found")
            if suffixes & members.keys():
                raise BadRecord(f"several {kind} files")
            members[suffix] = file
    return members


def check_tags(turns: list[dict[str, str]], members: dict[str, bytes | Path]) -> None:
    """Refuse turns whose tags do not match the media, or where the answer holds a tag."""
    for kind, suffixes in SUFFIXES.items():
        asked = sum(turn["value"].count(f"<{kind}>") for turn in turns if turn["from"] == "human")
        answered = sum(turn["value"].count(f"<{kind}>") for turn in turns if turn["from"] == "gpt")
        if answered or asked != len(suffixes & members.keys()):
            raise BadRecord(f"<{kind}> tags and {kind} files differ in number")
