"""LowSimilarity: samples whose two modalities say different things, as an aligned space sees it, are dropped."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datamodules.preparation.step import Step
from datamodules.sources.source import Dropped, Sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modules.embedder import Embedder

NUM_BINS = 40


@dataclass
class LowSimilarity(Step):
    """Drop samples whose embeddings of two modalities have a cosine below a bound.

    CLIP filtering as of LAION-400M (arXiv:2111.02114), with encoders of your own. Samples that lack one of the two
    are kept; those that cannot be decoded are dropped under the reason that decoding gives.
    """

    parts: str
    """The `parts/` folder of a run of align."""
    min_similarity: float
    """Cosine, from -1 to 1, from which on a sample is kept. The manifest has a histogram to choose it by."""
    first: str = "image"
    """One modality of the space."""
    second: str = "text"
    """Another."""
    batch_size: int = 64
    """Samples that are embedded at once."""
    device: str = "cpu"
    """Where the encoders run, such as cpu or cuda."""
    bins: list[int] = field(default_factory=lambda: [0] * NUM_BINS, init=False, repr=False)
    lacking: int = field(default=0, init=False, repr=False)
    embedder: "Embedder | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not -1 <= self.min_similarity <= 1:
            raise ValueError(f"LowSimilarity.min_similarity is {self.min_similarity}, expected from -1 to 1")
        if self.first == self.second:
            raise ValueError(f"LowSimilarity compares {self.first} with itself: name two modalities")

    def identity(self) -> dict[str, Any]:
        """Return the fingerprints of the parts.

        Raises:
            PartError: one of them is missing.
        """
        from modules import parts

        return {name: parts.fingerprint(parts.read_card(f"{self.parts}/{name}")) for name in self._names()}

    def __call__(self, samples: list[Sample]) -> list[Sample | Dropped]:
        from datamodules.modalities.build import build_modalities
        from stages.embedding import decode

        embedder = self._load()
        modalities = build_modalities(embedder.input_configs)
        decoded = {name: decode(samples, modalities[name]) for name in (self.first, self.second)}
        outcome: list[Sample | Dropped] = list(samples)
        for one in decoded.values():
            for place, bad in one.bad.items():
                outcome[place] = Dropped(samples[place].name, bad.reason.replace("_", " "), samples[place])
        both = sorted(set(decoded[self.first].places) & set(decoded[self.second].places))
        self.lacking += len(samples) - len(both) - sum(isinstance(each, Dropped) for each in outcome)
        for place, similarity in zip(
            both, self._similarities(embedder, modalities, decoded, both), strict=True
        ):
            self.bins[min(NUM_BINS - 1, max(0, int((similarity + 1) / 2 * NUM_BINS)))] += 1
            if similarity < self.min_similarity:
                reason = f"{self.first} and {self.second} too dissimilar"
                outcome[place] = Dropped(samples[place].name, reason, samples[place])
        return outcome

    def report(self) -> dict[str, Any]:
        edges = [round(-1 + 2 * number / NUM_BINS, 4) for number in range(NUM_BINS)]
        counts = {f"{edge:.2f}": count for edge, count in zip(edges, self.bins, strict=True) if count}
        return {f"similarity.{self.first}_{self.second}": {"from": counts, "lacking_one": self.lacking}}

    def state(self) -> dict[str, Any]:
        return {"bins": self.bins, "lacking": self.lacking}

    def restore(self, state: "Mapping[str, Any]") -> None:
        self.bins, self.lacking = list(state["bins"]), state["lacking"]

    def _names(self) -> list[str]:
        return [
            f"{group}.{name}" for group in ("encoders", "projections") for name in (self.first, self.second)
        ]

    def _load(self) -> "Embedder":
        if self.embedder is None:
            from modules import parts
            from modules.embedder import Embedder

            found: dict[str, dict[str, Any]] = {"encoders": {}, "projections": {}}
            for path in self._names():
                group, _, name = path.partition(".")
                found[group][name] = parts.load(f"{self.parts}/{path}")
            self.embedder = Embedder(**found).eval().to(self.device)
        return self.embedder

    def _similarities(
        self,
        embedder: "Embedder",
        modalities: "Mapping[str, Any]",
        decoded: "Mapping[str, Any]",
        both: list[int],
    ) -> list[float]:
        import torch

        from stages.embedding import in_batches

        vectors = []
        with torch.inference_mode():
            for name in (self.first, self.second):
                one = decoded[name]
                chosen = dict(zip(one.places, one.values, strict=True))
                values = [chosen[place] for place in both]
                batches = in_batches(values, modalities[name], self.batch_size, self.device)
                found = [embedder.embed(name, inputs) for inputs in batches]
                vectors.append(torch.cat(found) if found else torch.zeros(0, embedder.dim))
        return (vectors[0] * vectors[1]).sum(1).tolist()
