"""Selection: judges examined samples one after another, and gives those that are kept a key that occurs once."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from datamodules.preparation.cleaning.filter import Filter, Rejected
from datamodules.preparation.engines.examining import Examined
from datamodules.preparation.engines.members import small
from datamodules.sources.source import Dropped, Sample

Judged = tuple[str, bool, Sequence[Any]]
"""A key, whether it was kept, and the findings under it."""


class Selection:
    """What must happen in the order of the samples, with all that it has to remember.

    `judged` lists what was judged since it was last emptied: replayed to a new Selection, it remembers the same.
    """

    def __init__(self, filters: Sequence[Filter]) -> None:
        self.filters = deepcopy(list(filters))  # what they remember belongs to this set
        self.judges = [type(chosen).judge is not Filter.judge for chosen in self.filters]
        self.keys: set[str] = set()
        self.number = 2
        self.judged: list[Judged] = []

    def __call__(self, examined: Examined) -> Sample | Dropped:
        """Return a sample under its final key, or as dropped."""
        sample = examined.item
        assert isinstance(sample, Sample)
        key, number = self.free_key(sample.key)
        verdict = self.judge(examined.findings, key)
        # Only findings that a judge looks at are worth keeping.
        findings = [
            found if judges else None for found, judges in zip(examined.findings, self.judges, strict=True)
        ]
        self.judged.append((key, verdict is None, findings if any(self.judges) else ()))
        if isinstance(verdict, Rejected):
            return Dropped(sample.name, verdict.reason, small(sample), twin=verdict.twin)
        if verdict is not None:
            return Dropped(sample.name, verdict, small(sample))
        self.keys.add(key)
        self.number = number
        return replace(sample, key=key) if key != sample.key else sample

    def judge(self, findings: Sequence[Any], key: str) -> str | Rejected | None:
        """Return the first filter's reason to drop what was found; the filters behind it do not hear of it."""
        for chosen, finding, judges in zip(self.filters, findings, self.judges, strict=True):
            if judges and (verdict := chosen.judge(finding, key)):
                return verdict
        return None

    def free_key(self, key: str) -> tuple[str, int]:
        """Return `key`, or with a number behind it if it is taken, and the next number to try."""
        free, number = key, self.number
        while free in self.keys:
            free, number = f"{key}-{number}", number + 1
        return free, number

    def replay(self, judged: Iterable[Judged], number: int) -> None:
        """Remember what a Selection does that judged these, one after another, and came to `number`."""
        for key, is_kept, findings in judged:
            if any(self.judges):
                self.judge(findings, key)
            if is_kept:
                self.keys.add(key)
        self.number = number
