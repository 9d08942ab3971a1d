"""Filter by the language that a text is written in, told offline by py3langid (naive Bayes over byte n-grams)."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.preparation.cleaning.packages import require
from datamodules.sources.source import Sample

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


@dataclass
class Language(Filter):
    """Drop samples whose text is in another language, or in none that can be told with confidence.

    py3langid follows langid.py (Lui and Baldwin, ACL 2012) and knows 142 languages. Of a few words it is seldom
    sure, and of names it guesses: hence `min_characters`.
    """

    languages: list[str]
    """ISO 639 codes of those that are kept, such as [en, de]."""
    min_probability: float = 0.5
    """How probable the most likely language must be, from 0 to 1, where it is one of `languages`."""
    min_characters: int = 20
    """Shorter texts are not judged."""
    drop_short: bool = False
    """Whether texts too short to be judged are dropped rather than kept."""

    def __post_init__(self) -> None:
        require("py3langid", extra="clean")
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"Language.min_probability is {self.min_probability}, expected from 0 to 1")
        if not self.languages:
            raise ValueError("Language.languages is empty, which would drop every text; name at least one")
        known = identifier().labels
        if unknown := sorted(set(self.languages) - set(known)):
            raise ValueError(
                f"Language.languages names {', '.join(unknown)}; "
                f"expected ISO 639 codes out of: {' '.join(sorted(known))}"
            )

    def examine(self, sample: Sample) -> None:
        if "txt" not in sample.members:
            return
        text = sample.members["txt"].decode()
        if len(text) < self.min_characters:
            if self.drop_short:
                raise Reject("text too short to tell its language")
            return
        language, probability = identifier().classify(text)
        if language not in self.languages:
            raise Reject("text in another language")
        if probability < self.min_probability:
            raise Reject("language of the text is uncertain")


@cache
def identifier() -> "LanguageIdentifier":
    """Return the model, which takes 0.6 s to unpack, once per process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
