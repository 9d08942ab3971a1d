"""SampleDataModule: shards to batches, for every training stage."""

from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.modalities.build import build_modalities
from datamodules.stream import SampleSet, SampleStream, Share

MIN_BAD_SAMPLES = 20


class SampleDataModule(LightningDataModule):
    """Train on an endless stream of shuffled samples, validate on one pass in order.

    Its whole state is the cursor, the global position behind the last batch that was trained on: a run goes on
    from there with any number of ranks and workers, none repeated and none lost.

    Args:
        train: folders of shards, tars or patterns.
        val: the same, held out.
        batch_size: samples in one batch over all ranks; gradient accumulation takes several.
        num_workers: processes that read and decode beside the training; 0 does it in turn with it.
        seed: of order and augmentation.
        augment: modality -> init arguments of it that training alone has, such as `{image: {max_shift: 4}}`.
        max_bad_fraction: of all samples; a run stops when more cannot be decoded.
        input_configs: modality -> how its inputs are made; the model says it.
        require: modalities that a sample must have; the model says it.

    Raises:
        ValueError: when a number makes no sense, or nothing in the shards fits the model.
        FileNotFoundError: when there are no shards.
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        batch_size: int = 64,
        num_workers: int = 1,
        seed: int = 0,
        augment: dict[str, dict[str, Any]] | None = None,
        max_bad_fraction: float = 0.01,
        input_configs: dict[str, dict[str, Any]] | None = None,
        require: list[str] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0 or not 0 <= max_bad_fraction <= 1:
            raise ValueError(
                f"data: batch_size is {batch_size}, num_workers {num_workers}, max_bad_fraction {max_bad_fraction}: "
                "expected at least 1, at least 0, and a share from 0 to 1"
            )
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.max_bad_fraction = max_bad_fraction
        self.cursor, self.bad_samples = 0, 0
        self._stream: SampleStream | None = None
        configs = input_configs or {}
        require = require or []
        self.train = SampleSet(train, build_modalities(_augmented(configs, augment or {})), require)
        self.val = SampleSet(val, build_modalities(configs), require) if val else None

    def train_dataloader(self) -> DataLoader:
        self._stream = SampleStream(
            self.train, self.batch_size, self._share(), seed=self.seed, start=self.cursor
        )
        return self._loader(self._stream)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        if self.val is None:
            return []
        return self._loader(SampleStream(self.val, self.batch_size, self._share()))

    def consumed(self, batch: Batch) -> None:
        """Note that a batch is being trained on; the stage calls it.

        Raises:
            ValueError: when more than `max_bad_fraction` of the samples could not be decoded.
        """
        self.cursor = batch.cursor
        if self._stream:
            self._stream.start = self.cursor  # Lightning begins the loader anew with limit_train_batches
        for reason, names in batch.skipped.items():
            if self.bad_samples < MIN_BAD_SAMPLES:
                rank_zero_warn(f"left out ({reason}): {names[0][:300]}")
            self.bad_samples += len(names) * self._share().world_size  # as many on the other ranks, about
        if self.bad_samples > max(MIN_BAD_SAMPLES, self.max_bad_fraction * self.cursor):
            raise ValueError(
                f"{self.bad_samples} of {self.cursor} samples could not be decoded, more than max_bad_fraction "
                f"{self.max_bad_fraction}: prepare the shards again; the last: {batch.skipped}"
            )

    def state_dict(self) -> dict[str, int]:
        return {"cursor": self.cursor, "bad_samples": self.bad_samples}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.cursor, self.bad_samples = state_dict["cursor"], state_dict["bad_samples"]

    def _share(self) -> Share:
        share = Share(self.trainer.global_rank, self.trainer.world_size) if self.trainer else Share()
        if self.batch_size % share.world_size:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, over all ranks, and does not divide by {share.world_size} ranks"
            )
        return share

    def _loader(self, stream: SampleStream) -> DataLoader:
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


def _augmented(
    configs: dict[str, dict[str, Any]], augment: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    if unknown := set(augment) - set(configs):
        raise ValueError(
            f"data.augment names {', '.join(sorted(unknown))}, the modalities are {', '.join(configs)}"
        )
    return {
        name: {**config, "init_args": {**config.get("init_args", {}), **augment.get(name, {})}}
        for name, config in configs.items()
    }
