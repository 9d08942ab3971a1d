"""Instructions in LLaVA's JSON layout: conversations about an image, a sound, or both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.sources.annotations import (
    BadRecord,
    Records,
    estimate_count,
    json_bytes,
    media_below,
    read_json_lines,
    samples_of,
)
from datamodules.sources.json_records import read_records
from datamodules.sources.source import (
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    Dropped,
    Sample,
    Source,
    key_of,
    with_own,
)

KINDS = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES}
ROLES = ("human", "gpt")
SPEAKERS = {"user": "human", "assistant": "gpt"}
LISTS = {"conversations", "messages"}


@dataclass
class LlavaJson(Source):
    """LLaVA's records: `{"id", "task", "image", "audio", "conversations": [{"from", "value"}, …]}`.

    The file is a JSON list of records or one record per line. Each `<image>` and `<audio>` tag in the turns stands
    for the file of that name. `messages` of `role` and `content` are read as well. A record that breaks the layout is
    dropped and counted, as is one with a video or with several images; media are never fetched.
    """

    path: Path
    """The JSON file."""
    media_root: Path | None = None
    """The folder that paths of media are relative to and may not leave; by default that of the JSON file."""
    suffixes: dict[str, list[str]] = field(default_factory=dict)
    """Suffixes of modalities of your own: with `{imu: [csv]}` a record's `imu` names a file, its tag is `<imu>`."""

    def __post_init__(self) -> None:
        self.kinds = with_own(KINDS, self.suffixes, taken="json")

    def files(self) -> list[Path]:
        return [Path(self.path)] if Path(self.path).is_file() and Path(self.path).stat().st_size else []

    def check(self) -> None:
        super().check()
        if self.media_root and not Path(self.media_root).is_dir():
            raise FileNotFoundError(
                f"media_root {self.media_root} is not a folder; expected that of the media."
            )
        holds = [
            key for _, record in self.records() if isinstance(record, dict) for key in LISTS & record.keys()
        ]
        if not holds:
            raise ValueError(
                f"{self.path} holds no record with `conversations`; expected a JSON list of LLaVA records, or one in "
                "each line. Check that it is the right file."
            )

    def expects(self) -> str:
        return "a JSON file, a list of LLaVA records"

    def __len__(self) -> int:
        return max(estimate_count(Path(self.path), f'"{key}"'.encode()) for key in LISTS)

    def records(self) -> Records:
        """Yield the records, of a list or of lines.

        Raises:
            ValueError: the file is not UTF-8 JSON; names the file and the place.
        """
        path = Path(self.path)
        with path.open("rb") as file:
            is_list = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
        for number, record in enumerate(read_records(path) if is_list else read_json_lines(path)):
            yield f"record {number}", record if is_list else record[1]

    def __iter__(self) -> Iterator[Sample | Dropped]:
        seen: set[str] = set()
        root = (self.media_root or Path(self.path).parent).resolve()

        def conversation(name: str, record: object) -> Iterator[Sample]:
            if not isinstance(record, dict):
                raise BadRecord("record is not an object")
            members, turns = media_of(record, root, self.kinds), turns_of(record)
            check_tags(turns, members, self.kinds)
            identifier = str(record.get("id", ""))
            if not identifier or identifier in seen:
                identifier = f"{identifier or 'record'}-{name.rpartition(' ')[2]}"
            seen.add(identifier)
            kept = {"id": identifier, "task": str(record.get("task", "")), "conversations": turns}
            yield Sample(key_of(identifier), members | {"json": json_bytes(kept)}, f"{name} ({identifier})")

        yield from samples_of(self.records(), conversation)


def turns_of(record: dict) -> list[dict[str, str]]:
    """Return the checked turns: human and gpt in turn, human first, gpt last, each with something to say."""
    turns = record.get("conversations") or from_messages(record.get("messages"))
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


def from_messages(messages: object) -> object:
    """Return OpenAI's `messages`, of role and content, as LLaVA's turns; what is not in that layout as it is."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return messages
    return [
        {"from": SPEAKERS.get(str(message.get("role"))), "value": message.get("content")}
        for message in messages
    ]


def media_of(record: dict, root: Path, kinds: Mapping[str, frozenset[str]]) -> dict[str, bytes | Path]:
    """Return the record's media by suffix, each a file below `root`."""
    members: dict[str, bytes | Path] = {}
    if record.get("video") and "video" not in kinds:
        raise BadRecord("video in a conversation")
    for kind, suffixes in kinds.items():
        listed = record.get(kind) or []
        for given in listed if isinstance(listed, list) else [listed]:
            file = media_below(root, given, suffixes, kind)
            if suffixes & members.keys():
                raise BadRecord(f"several {kind} files")
            members[file.suffix[1:].lower()] = file
    return members


def check_tags(
    turns: list[dict[str, str]],
    members: dict[str, bytes | Path],
    kinds: Mapping[str, frozenset[str]] = KINDS,
) -> None:
    """Refuse turns whose tags do not match the media, or where the answer holds a tag."""
    for kind, suffixes in kinds.items():
        asked = sum(turn["value"].count(f"<{kind}>") for turn in turns if turn["from"] == "human")
        answered = sum(turn["value"].count(f"<{kind}>") for turn in turns if turn["from"] == "gpt")
        if answered or asked != len(suffixes & members.keys()):
            raise BadRecord(f"<{kind}> tags and {kind} files differ in number")
