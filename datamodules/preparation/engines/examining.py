"""What worker processes do with the items of a source: make the samples of each, cut, load and examine them."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from datamodules.preparation.chunks.chunking import Chunks
from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.preparation.cleaning.quality import Quality
from datamodules.preparation.engines.members import check_members, load, small
from datamodules.preparation.exhibits.exhibits import Worth
from datamodules.preparation.exhibits.measures import measure
from datamodules.preparation.recipe import Recipe
from datamodules.sources.source import Dropped, Note, Sample, Source, key_of, shortened

MAX_NAME_CHARACTERS = 300


class Examined(NamedTuple):
    """One thing that came of a source's item."""

    source_item: int
    """Which item of the source, counted from 0."""
    item: Sample | Dropped | Note
    findings: tuple[Hashable, ...] = ()
    """What each filter found in a sample."""
    measures: Mapping[str, float] = {}
    """What the report shows of a sample as histograms."""
    is_error: bool = False
    """Whether a sample was dropped because something failed on it that should have known it."""


@dataclass
class Examiner:
    """Examines a source's items: each comes out as any number of loaded samples, drops and notes, in order."""

    source: Source
    chunk: Chunks | None
    filters: Sequence[Filter]
    quality: Quality | None = None
    worth: Worth = field(default_factory=Worth, init=False)

    @classmethod
    def of(cls, recipe: Recipe) -> "Examiner":
        """Return the half of a recipe that worker processes need."""
        return cls(recipe.source, recipe.chunk, recipe.filters or [], recipe.quality)

    def __call__(self, first: int, items: Sequence[Sample | Dropped]) -> Iterator[Examined]:
        """Yield what comes of items, the first of which is number `first` of the source."""
        for number, item in enumerate(items, start=first):
            yield from self.examine(number, item)

    def examine(self, number: int, item: Sample | Dropped) -> Iterator[Examined]:
        """Yield what comes of one item; what fails on it is dropped, and the rest of the item with it."""
        if not isinstance(item, Sample):
            yield Examined(number, item)
            return
        try:
            for made in self.source.expand(item):
                if isinstance(made, Sample):
                    yield from self.examine_sample(number, made)
                else:
                    yield Examined(number, made)
        except ImportError:
            raise  # a package is missing: no sample will do
        except (
            Exception
        ) as error:  # readers of strangers' files raise anything; it is counted, named and shown
            yield self.failed(number, self.source, item, error)

    def examine_sample(self, number: int, made: Sample) -> Iterator[Examined]:
        """Yield what comes of one sample that the source made: itself, or its chunks."""
        made = replace(made, key=shortened(key_of(made.key) or "sample"))
        part: object = self.chunk
        try:
            for sample in self.chunk(made) if self.chunk else [made]:
                part = self.source
                try:
                    check_members(sample)
                    sample = load(sample)
                    findings = []
                    for part in self.filters:
                        findings.append(part.examine(sample))
                    if self.quality:
                        part = self.quality
                        sample = self.quality(sample)
                    yield Examined(number, sample, tuple(findings), measure(sample))
                except Reject as rejected:
                    yield Examined(number, self.dropped(sample, str(rejected)))
                except ImportError:
                    raise
                except Exception as error:
                    yield self.failed(number, part, sample, error)
                part = self.chunk
        except Reject as rejected:
            yield Examined(number, self.dropped(made, str(rejected)))
        except ImportError:
            raise
        except Exception as error:
            yield self.failed(number, part, made, error)

    def failed(self, number: int, part: object, sample: Sample, error: Exception) -> Examined:
        """Return a sample as dropped because `part` failed on it."""
        named = replace(sample, name=f"{sample.name} ({type(error).__name__}: {error})"[:MAX_NAME_CHARACTERS])
        return Examined(number, self.dropped(named, f"{type(part).__name__} failed"), is_error=True)

    def dropped(self, sample: Sample, reason: str) -> Dropped:
        """Return a sample as dropped, with its members if it may come to be shown."""
        return Dropped(sample.name, reason, sample=small(sample) if self.worth(sample.name, reason) else None)
