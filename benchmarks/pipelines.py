"""One pass over the same samples, by us and by others: JPEG and caption to a batch of pictures and token ids."""

import functools
import importlib.util
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader

SIZE, CONTEXT = 224, 77
CROP_SCALE = [0.9, 1.0]  # open_clip's default; it does not flip


@dataclass(frozen=True)
class Task:
    """What every pipeline is to do.

    Args:
        shards: folder of tars.
        copies: folder for copies in the formats of others.
        count: samples in the shards.
        batch_size: samples in a batch.
        num_workers: 0 works in this process.
        is_train: shuffled and cut at random; else in order and cut in the centre.
    """

    shards: Path
    copies: Path
    count: int
    batch_size: int
    num_workers: int
    is_train: bool

    @property
    def tars(self) -> list[str]:
        return sorted(map(str, self.shards.glob("*.tar")))


Pass = Callable[[Task], Iterator[torch.Tensor]]
"""Makes one pass and yields the pictures of each batch."""


def ours(task: Task) -> Iterator[torch.Tensor]:
    """As the data module loads, but for the training around it."""
    from datamodules.stream import SampleStream, Share

    stream = SampleStream(
        sample_set(task), task.batch_size, Share(), seed=0 if task.is_train else None, start=0
    )
    loader = DataLoader(stream, batch_size=None, num_workers=task.num_workers)
    for batch in itertools.islice(loader, -(-task.count // task.batch_size)):
        yield batch.inputs["image"]["pixels"]


def ours_normalised(task: Task) -> Iterator[torch.Tensor]:
    """Ours with what the model does on the device done here."""
    mean, std = (
        torch.tensor(value).view(3, 1, 1) for value in ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276))
    )
    for pixels in ours(task):
        yield pixels.float().div_(255).sub_(mean).div_(std)


def sample_set(task: Task) -> Any:
    """Return the shards as our set of samples."""
    from datamodules.stream import SampleSet

    return SampleSet([str(task.shards)], modalities(task.is_train), ["image", "text"])


@functools.cache
def modalities(is_train: bool) -> dict[str, Any]:
    """Return ours, made once: reading a vocabulary is no part of a pass, of ours or of others."""
    from datamodules.modalities.image import Image
    from datamodules.modalities.text import Text
    from modules.encoders.clip_tokenizer import clip_tokenizer

    crop = {"crop_scale": CROP_SCALE} if is_train else {}
    return {"image": Image(SIZE, SIZE, **crop), "text": Text(clip_tokenizer(), CONTEXT)}


def open_clip(task: Task) -> Iterator[torch.Tensor]:
    """Its own `get_wds_dataset`, with its transform and tokenizer."""
    random.seed(0)
    names = "{" + ",".join(Path(tar).stem for tar in task.tars) + "}.tar"
    args = SimpleNamespace(
        train_data=f"{task.shards}/{names}",
        val_data=f"{task.shards}/{names}",
        dataset_resampled=False,
        train_num_samples=task.count,
        val_num_samples=task.count,
        train_data_upsampling_factors=None,
        seed=0,
        batch_size=task.batch_size,
        workers=task.num_workers,
        world_size=1,
    )
    transform, tokenizer = open_clip_transform(task), open_clip_tokenizer()
    data = open_clip_data().get_wds_dataset(args, transform, task.is_train, floor=True, tokenizer=tokenizer)
    for pixels, _ in data.dataloader:
        yield pixels


def open_clip_data() -> Any:
    """Return open_clip's module of data, which does not know the mark that webdataset 1.0 puts behind each shard."""
    from open_clip_train import data
    from webdataset.tariterators import tar_file_expander

    data.tar_file_expander = functools.partial(tar_file_expander, eof_value=None)
    return data


def webdataset(task: Task) -> Iterator[torch.Tensor]:
    """Its usual chain of filters, with open_clip's transform and tokenizer."""
    import webdataset

    transform, tokenizer = open_clip_transform(task), open_clip_tokenizer()
    dataset = webdataset.WebDataset(task.tars, shardshuffle=8 if task.is_train else False, empty_check=False)
    if task.is_train:
        dataset = dataset.shuffle(1000)
    dataset = (
        dataset.decode("pilrgb")
        .to_tuple("jpg", "txt")
        .map_tuple(transform, lambda text: tokenizer(text)[0])
        .batched(task.batch_size)
    )
    for pixels, _ in webdataset.WebLoader(dataset, batch_size=None, num_workers=task.num_workers):
        yield pixels


def litdata(task: Task) -> Iterator[torch.Tensor]:
    """Its chunks of the same bytes, with open_clip's transform and tokenizer."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder = task.copies / "litdata"
    if not folder.exists():
        writer = BinaryWriter(str(folder), chunk_bytes="32MB")
        for number, sample in enumerate(raw_samples(task)):
            writer[number] = sample
        writer.done()
        writer.merge()
    transform, tokenizer = open_clip_transform(task), open_clip_tokenizer()
    dataset = StreamingDataset(
        str(folder), shuffle=task.is_train, transform=lambda raw: decoded(raw, transform, tokenizer)
    )
    for pixels, _ in StreamingDataLoader(dataset, batch_size=task.batch_size, num_workers=task.num_workers):
        yield pixels


def mosaicml_streaming(task: Task) -> Iterator[torch.Tensor]:
    """Its MDS shards of the same bytes, with open_clip's transform and tokenizer."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    folder = task.copies / "mosaicml"
    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"jpg": "bytes", "txt": "str"}) as writer:
            for sample in raw_samples(task):
                writer.write(sample)
    transform, tokenizer = open_clip_transform(task), open_clip_tokenizer()

    class Dataset(StreamingDataset):
        def __getitem__(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
            return decoded(super().__getitem__(at), transform, tokenizer)

    clean_stale_shared_memory()
    dataset = Dataset(local=str(folder), shuffle=task.is_train, batch_size=task.batch_size)
    for pixels, _ in DataLoader(dataset, batch_size=task.batch_size, num_workers=task.num_workers):
        yield pixels


def raw_samples(task: Task) -> Iterator[dict[str, Any]]:
    """Yield JPEG bytes and captions in the order of the shards."""
    from datamodules.shards.reader import ShardReader

    reader = ShardReader([str(task.shards)])
    for position in range(len(reader)):
        yield {
            "jpg": bytes(reader.read(position, "jpg")),
            "txt": bytes(reader.read(position, "txt")).decode(),
        }


def decoded(raw: dict[str, Any], transform: Any, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return picture and ids as open_clip makes them."""
    import io

    from PIL import Image

    return transform(Image.open(io.BytesIO(raw["jpg"])).convert("RGB")), tokenizer(raw["txt"])[0]


def open_clip_transform(task: Task) -> Any:
    """Return its transform, which crops at random in training."""
    from open_clip import image_transform

    return image_transform(SIZE, is_train=task.is_train)


@functools.cache
def open_clip_tokenizer() -> Any:
    """Return its tokenizer, whose cache of words stays warm."""
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=CONTEXT)


PASSES: dict[str, Pass] = {
    "ours": ours,
    "ours_normalised_on_cpu": ours_normalised,
    "open_clip": open_clip,
    "webdataset": webdataset,
    "litdata": litdata,
    "mosaicml_streaming": mosaicml_streaming,
}

PACKAGES = {"open_clip": "open_clip_train", "mosaicml_streaming": "streaming"}


def is_installed(name: str) -> bool:
    """Return whether a peer's package is there; ours always is."""
    return name.startswith("ours") or importlib.util.find_spec(PACKAGES.get(name, name)) is not None
