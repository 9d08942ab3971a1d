"""VQAv2's questions and answers, as conversations about an image."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from datamodules.sources.annotations import (
    BadRecord,
    Records,
    estimate_count,
    json_bytes,
    require_files,
    samples_of,
    text_of,
)
from datamodules.sources.json_records import read_records
from datamodules.sources.llava_json import check_tags
from datamodules.sources.source import IMAGE_SUFFIXES, Dropped, Sample, Source, walk


@dataclass
class VisualQuestions(Source):
    """Questions with ten people's answers each; the answer given most often is what the assistant says.

    All ten stay in the record as `answers`, which the VQA accuracy is counted over.
    """

    path: Path
    """The folder of the data set."""
    questions: Path = Path("v2_OpenEnded_mscoco_train2014_questions.json")
    """`{"questions": [{"question_id", "image_id", "question"}]}`; relative to `path`."""
    annotations: Path = Path("v2_mscoco_train2014_annotations.json")
    """`{"annotations": [{"question_id", "multiple_choice_answer", "answers": [{"answer"}]}]}`; relative to `path`."""
    images: Path = Path("train2014")
    """The folder of `COCO_train2014_000000458752.jpg` or `000000458752.jpg`; relative to `path`."""
    instruction: str = ""
    """Added to each question in a line of its own, such as `Answer with a single word or phrase.`"""

    def files(self) -> list[Path]:
        return [*self.annotation_files().values(), *walk(Path(self.path) / self.images, IMAGE_SUFFIXES)]

    def annotation_files(self) -> dict[str, Path]:
        """Return where questions and answers lie, by the key that each holds."""
        return {
            "questions": Path(self.path) / self.questions,
            "annotations": Path(self.path) / self.annotations,
        }

    def check(self) -> None:
        if Path(self.path).exists():
            require_files(**self.annotation_files())
        super().check()
        for key, file in self.annotation_files().items():
            if not sum(1 for _ in read_records(file, key)):
                raise ValueError(f"{file} holds no `{key}`; expected VQAv2's.")

    def __len__(self) -> int:
        return estimate_count(self.annotation_files()["questions"], b'"question_id"')

    def __iter__(self) -> Iterator[Sample | Dropped]:
        pictures = {}
        for file in walk(Path(self.path) / self.images, IMAGE_SUFFIXES):
            digits = file.stem.rpartition("_")[2]
            if digits.isdecimal():
                pictures[int(digits)] = file
        answers = {}
        for number, annotation in enumerate(
            read_records(self.annotation_files()["annotations"], "annotations")
        ):
            try:
                identifier = identifier_of(annotation, "question_id")
                answers[identifier] = answers_of(annotation)
            except BadRecord as error:
                yield Dropped(f"annotation {number}", str(error))

        def conversation(name: str, question: dict) -> Iterator[Sample]:
            identifier, image = identifier_of(question, "question_id"), identifier_of(question, "image_id")
            if image not in pictures:
                raise BadRecord("image not found")
            if identifier not in answers:
                raise BadRecord("question without an answer")
            asked = f"<image>\n{text_of(question, 'question')}\n{self.instruction}".rstrip()
            turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answers[identifier][0]}]
            members = {pictures[image].suffix[1:].lower(): pictures[image]}
            check_tags(turns, members)
            record = {"id": str(identifier), "task": "vqa", "conversations": turns, "image_id": image}
            record["answers"] = answers[identifier][1]
            yield Sample(str(identifier), members | {"json": json_bytes(record)}, name)

        yield from samples_of(self.asked(), conversation)

    def asked(self) -> Records:
        """Yield the questions."""
        for number, question in enumerate(read_records(self.annotation_files()["questions"], "questions")):
            yield f"question {number}", question


def identifier_of(record: object, field: str) -> int:
    """Return an identifier, a whole number.

    Raises:
        BadRecord: it is missing or something else.
    """
    identifier = record.get(field) if isinstance(record, dict) else None
    if not isinstance(identifier, int):
        raise BadRecord(f"no {field}")
    return identifier


def answers_of(annotation: dict) -> tuple[str, list[str]]:
    """Return the answer given most often, the first of several such, and all answers.

    Raises:
        BadRecord: there is no answer in it.
    """
    listed = annotation.get("answers") or [{"answer": annotation.get("multiple_choice_answer")}]
    # Few answers differ: one string each for four million keeps a training set's within memory.
    answers = [intern(text_of(answer, "answer")) for answer in (listed if isinstance(listed, list) else [])]
    if not answers:
        raise BadRecord("no answer")
    return Counter(answers).most_common(1)[0][0], answers
