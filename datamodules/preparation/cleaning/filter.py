"""Filter: what keeps bad samples out of shards, for reasons under which `prepare` counts what it drops.

A filter works in two halves. `examine` looks at one sample alone, so it runs in worker processes, and raises Reject or
returns a finding. `judge` is given the findings one after another in the order of the samples, in the main process, so
it may remember what came before. Most filters need the first half only; duplicates need both. A set that is prepared
in two goes is judged anew from its findings: what `judge` remembers may come from nothing else.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from datamodules.sources.source import Sample


class Reject(Exception):
    """Raised by `examine` to drop a sample; its message is the reason, a few words that are the same for all alike."""


@dataclass(frozen=True)
class Rejected:
    """Why `judge` drops a sample, and the key of the earlier sample that it resembles."""

    reason: str
    twin: str


class Filter:
    """One reason, or a few, to drop a sample. Subclasses are dataclasses and give `examine`, `judge` or both."""

    def examine(self, sample: Sample) -> Hashable:
        """Look at one loaded sample alone and return what `judge` needs: None, bytes, text, numbers, or tuples of them.

        Raises:
            Reject: the sample is to be dropped.
        """
        return None

    def judge(self, finding: Hashable, key: str) -> str | Rejected | None:
        """Return the reason to drop the sample with this finding, or None to keep it. Called in order.

        Args:
            finding: what `examine` returned.
            key: under which the sample stands in the shards if it is kept.
        """
        return None
