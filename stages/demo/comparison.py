"""Comparison: objectives of align beside one another, and fusions on one task, over several seeds, as tables."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stages.cli import write_json
from stages.demo import runs, tables
from stages.demo.variants import ALIGN, FUSIONS, INFONCE, Variant

PRETRAIN = {
    "image": "pretrain/image_supervised",
    "audio": "pretrain/audio_supervised",
    "text": "pretrain/text_masked",
}
Part = Literal["frozen", "live", "fusions"]


@dataclass(frozen=True)
class Seed:
    """The runs of one seed, and what is changed in the configs of all its trainings."""

    number: int
    folder: Path
    changes: Mapping[str, Any]

    def fit(self, config: str, name: str, changes: Mapping[str, Any]) -> Path:
        """Train, if that is not done, and return the run directory."""
        run = self.folder / name
        runs.fit(config, run, self.number, {**self.changes, **changes})
        return run

    def pretrained(self, modality: str) -> Path:
        """Return the part that pretraining left."""
        return self.folder / f"pretrain-{modality}/parts/encoders.{modality}"

    def aligned(self, modality: str) -> Path:
        """Return the part that alignment by InfoNCE left."""
        return self.folder / f"live-{INFONCE.slug}/parts/encoders.{modality}"


def compare(
    seeds: int = 3,
    parts: Sequence[Part] = ("frozen", "fusions"),
    only: Sequence[str] = (),
    steps: int | None = None,
    lanes: int = 0,
    out: Path = Path("runs/comparison"),
) -> None:
    """Compare the objectives of align, and the fusions on one task, at equal steps, and print mean and spread.

    Needs the data and shards of `make demo`. Goes on where an earlier run stopped; what is not there yet is left out of
    the tables.

    Args:
        seeds: How many seeds each.
        parts: `frozen`: objectives, with image and audio encoders as pretraining left them, their features cached;
            `live`: the same with all encoders trained, four times as long; `fusions`: do picture and speech match, on
            features of the first seed's alignment.
        only: Names of the variants to run; by default all.
        steps: Of each training; by default those of the demo's configs.
        lanes: How many commands run at once; 0 is one a core.
        out: Folder of all the runs; `tables.md` and `tables.json` are written there.

    Raises:
        FileNotFoundError: when the demo's shards are not there.
        ValueError: when a command fails; names its log.
    """
    runs.check_data()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    changes = {"trainer.max_steps": steps} if steps else {}
    all_seeds = [Seed(number, out / str(number), changes) for number in range(seeds)]
    with ThreadPoolExecutor(lanes or os.cpu_count()) as pool:

        def run_all(jobs: Iterable[Callable[[], None]]) -> None:
            for future in [pool.submit(job) for job in jobs]:
                future.result()

        def run(job: Callable[..., None], variants: Iterable[Any] = ((),)) -> None:
            run_all([partial(job, seed, *variant) for variant in variants for seed in all_seeds])

        def chosen(variants: Iterable[Variant]) -> list[tuple[Variant]]:
            return [(variant,) for variant in variants if not only or variant.name in only]

        run(pretrain, [(modality,) for modality in PRETRAIN])
        if "frozen" in parts:
            run(cache_scenes)
            run(align_frozen, chosen(ALIGN))
        if "fusions" in parts:
            aligned = all_seeds[0]  # once: what is compared is trained after it
            run_all([partial(align_live, aligned, INFONCE)])
            run_all([partial(cache_matches, aligned)])
            run(transfer, [(*variant, aligned) for variant in chosen(FUSIONS)])
        if "live" in parts:
            run(align_live, chosen(ALIGN))
    found = tables.collect([seed.folder for seed in all_seeds])
    write_json(out / "tables.json", found)
    (out / "tables.md").write_text(tables.markdown(found), encoding="utf-8")
    print("\n" + tables.markdown(found))


def pretrain(seed: Seed, modality: str) -> None:
    """Train one encoder as the demo does."""
    seed.fit(PRETRAIN[modality], f"pretrain-{modality}", {})


def align_live(seed: Seed, variant: Variant) -> None:
    """Train one variant of align with all its encoders, and measure it."""
    encoders = {name: runs.part(seed.pretrained(name)) for name in PRETRAIN}
    measure(seed.fit(variant.config, f"live-{variant.slug}", {"model.encoders": encoders, **variant.changes}))


def align_frozen(seed: Seed, variant: Variant) -> None:
    """Train one variant of align on cached features of image and audio, and measure it."""
    encoders = {name: runs.cached(seed.pretrained(name)) for name in ("image", "audio")}
    frozen = {
        "model.encoders": {**encoders, "text": runs.part(seed.pretrained("text"))},
        "model.lr_factors": {},
        "data.train": str(seed.folder / "features/scenes-train"),
        "data.val": str(seed.folder / "features/scenes-val"),
        "data.augment": None,
    }
    measure(seed.fit(variant.config, f"align-{variant.slug}", {**frozen, **variant.changes}))


def measure(run: Path) -> None:
    """Measure retrieval among the held-out scenes."""
    left_out = dict.fromkeys(("zero_shot", "assistant", "instructions"))
    runs.evaluate(run, {"aligned": str(run / "parts"), **left_out})


def transfer(seed: Seed, variant: Variant, aligned: Seed) -> None:
    """Train one fusion to tell whether picture and speech match, on cached features of the encoders of one seed."""
    changes = dict(variant.changes)
    encoders = {name: runs.cached(aligned.aligned(name)) for name in changes.pop("modalities")}
    data = {
        "data.train": str(aligned.folder / "matches/train"),
        "data.val": str(aligned.folder / "matches/test"),
    }
    seed.fit(variant.config, f"transfer-{variant.slug}", {"model.encoders": encoders, **data, **changes})


def cache_scenes(seed: Seed) -> None:
    """Write the features of the pretrained encoders of image and audio into shards of the scenes."""
    steps = [runs.feature_cache(seed.pretrained(name)) for name in ("image", "audio")]
    changes = {f"sets.scenes-{split}.steps": steps for split in ("train", "val")}
    runs.prepare("prepare/features", seed.folder / "features", changes)


def cache_matches(seed: Seed) -> None:
    """Write the features of the aligned encoders of image and audio into shards of the pairs."""
    store = seed.folder / "feature-store"
    steps = [runs.feature_cache(seed.aligned(name), cache=store) for name in ("image", "audio")]
    changes = {f"sets.{split}.steps": steps for split in ("train", "test")}
    runs.prepare("prepare/matches", seed.folder / "matches", changes)
