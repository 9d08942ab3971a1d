"""prepare: what the command line takes, what is refused before any work, and the order of the sets."""

import os
from pathlib import Path
from typing import Literal

# Sources, filters, steps and aligners are imported so that --help lists them and a short name such as `Folder` will do.
from datamodules.preparation.alignment.activity import Activity  # noqa: F401
from datamodules.preparation.alignment.timestamps import Timestamps  # noqa: F401
from datamodules.preparation.cleaning.duplicates import (  # noqa: F401
    ExactDuplicates,
    NearDuplicateImages,
    NearDuplicateTexts,
)
from datamodules.preparation.cleaning.filter import Filter
from datamodules.preparation.cleaning.images import ImageAspect, ImageSize  # noqa: F401
from datamodules.preparation.cleaning.language import Language  # noqa: F401
from datamodules.preparation.cleaning.media import Undecodable  # noqa: F401
from datamodules.preparation.cleaning.modality import RefusedByModality  # noqa: F401
from datamodules.preparation.cleaning.pairing import RepeatedText, Require, WeakText  # noqa: F401
from datamodules.preparation.cleaning.quality import LowQuality  # noqa: F401
from datamodules.preparation.cleaning.sounds import SoundLevel  # noqa: F401
from datamodules.preparation.cleaning.texts import (  # noqa: F401
    EmptyText,
    FileNameText,
    TextLength,
)
from datamodules.preparation.engines.examining import Examiner
from datamodules.preparation.engines.local import LocalEngine
from datamodules.preparation.engines.ray import RayEngine
from datamodules.preparation.recipe import Recipe
from datamodules.preparation.sets.folder import is_done, prepare_set
from datamodules.preparation.step import Step
from datamodules.sources.audio_set import AudioCaps, AudioSet  # noqa: F401
from datamodules.sources.class_folder import ClassFolder  # noqa: F401
from datamodules.sources.coco_captions import CocoCaptions  # noqa: F401
from datamodules.sources.conll import Conll  # noqa: F401
from datamodules.sources.ego4d import Ego4D  # noqa: F401
from datamodules.sources.folder import Folder  # noqa: F401
from datamodules.sources.img2dataset import Img2Dataset  # noqa: F401
from datamodules.sources.librispeech import LibriSpeech  # noqa: F401
from datamodules.sources.llava_json import LlavaJson  # noqa: F401
from datamodules.sources.localized_narratives import LocalizedNarratives  # noqa: F401
from datamodules.sources.open_images import OpenImages  # noqa: F401
from datamodules.sources.source import Source
from datamodules.sources.subtitled_videos import SubtitledVideos  # noqa: F401
from datamodules.sources.synchronised_clips import SynchronisedClips  # noqa: F401
from datamodules.sources.text_lines import TextLines  # noqa: F401
from datamodules.sources.text_table import TextTable  # noqa: F401
from datamodules.sources.visual_questions import VisualQuestions  # noqa: F401
from datamodules.sources.voxceleb import VoxCeleb  # noqa: F401
from stages.prepare.captioners import AssistantCaptions, PretrainedCaptions  # noqa: F401
from stages.prepare.captions import WeakCaptions  # noqa: F401
from stages.prepare.features import FeatureCache  # noqa: F401
from stages.prepare.progress import Progress
from stages.prepare.report import FILE as REPORT
from stages.prepare.report import write_report
from stages.prepare.similarity import LowSimilarity  # noqa: F401
from stages.prepare.video_features import VideoFeatureCache  # noqa: F401


def prepare(
    out: Path,
    sets: dict[str, Recipe] | None = None,
    one: Recipe | None = None,
    workers: int = 2,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> None:
    """Turn raw media into shards: per set one folder of tars, with manifest and index.

    A set that is there already, made from the same files with the same config, is left as it is. A set's folder
    appears under its name only when it is whole; a run that was stopped or killed is gone on with by the same command.
    `report.html` in `out` shows samples of each set, kept and dropped. `python -m stages.prepare inspect SHARDS` tells
    what is in shards.

    Args:
        out: Where the sets' folders go; with `one`, the folder of that set itself.
        sets: The sets by name.
        one: A single set without a config file: `--one.source Folder --one.source.path photos`.
        workers: Processes that read and check media.
        engine: Where they run: `local`, on this machine, or `ray`, through Ray Data. Both write the same bytes.
        address: Of a Ray cluster; by default Ray runs on this machine, for this run only.

    Raises:
        FileNotFoundError: a source is missing or empty.
        ValueError: nothing is asked for, a set's folder holds something else or is being written by another run,
            no sample of a set is left, or Ray is not there.
        DiskFullError: there is no room; what is whole stays.
    """
    folders = {out / name: recipe for name, recipe in (sets or {}).items()} | ({out: one} if one else {})
    if not folders:
        raise ValueError(
            "found nothing to prepare; expected `sets` in a --config, or --one.source. See --help."
        )
    if address and engine != "ray":
        raise ValueError(f"address is {address}, and engine is {engine}; expected engine ray with an address")
    for recipe in folders.values():
        recipe.source.check()
    descriptions = {folder: recipe.description() for folder, recipe in folders.items()}
    missing = {
        folder: recipe for folder, recipe in folders.items() if not is_done(folder, descriptions[folder])
    }
    for folder in folders:
        if folder not in missing:
            print(f"{folder}: already prepared")
    if not missing:
        if not (out / REPORT).is_file():
            write_report(out, list(folders))
        return

    examiners = {folder.name: Examiner.of(recipe) for folder, recipe in missing.items()}
    processes = min(workers, os.cpu_count() or 1)
    running = (
        LocalEngine(examiners, processes) if engine == "local" else RayEngine(examiners, processes, address)
    )
    with running, Progress() as progress:
        for folder, recipe in missing.items():
            total = len(recipe.source)
            progress.begin(folder.name, total)
            progress.end(prepare_set(folder, recipe, descriptions[folder], running, progress, total))
    progress.print_table()
    print(f"look at it: {write_report(out, list(folders), progress.seconds())}")


def listing() -> str:
    """Return the names of the sources, filters and steps that a config may choose without their whole path."""
    kinds = {"Sources": Source, "Filters": Filter, "Steps": Step}
    names = {
        kind: sorted(
            each.__name__
            for each in base.__subclasses__()
            if each.__module__.startswith(("datamodules.", "stages."))
        )
        for kind, base in kinds.items()
    }
    listed = "; ".join(f"{kind}: {', '.join(known)}" for kind, known in names.items() if known)
    return f"{listed}. More: --one.help, and --one.source.help NAME. In shards: python -m stages.prepare inspect SHARDS"
