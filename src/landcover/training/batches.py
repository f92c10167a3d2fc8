"""Batches of crops, read ahead by threads while the network computes."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from landcover.data import Dataset, Item
from landcover.legend import UInt8Array
from landcover.model.preprocessing import Preprocessing
from landcover.training.augment import Batch, fill_sample
from landcover.training.config import TrainConfig
from landcover.training.sampling import Census, Crop, CropSampler
from landcover.training.softlabels import SoftLabels
from landcover.training.surroundings import Surroundings, cut
from landcover.windows import Window


class BatchReader:
    """The endless sequence of a run's batches; batch ``n`` depends on the configuration and ``n`` alone.

    Reading copies memory and releases Python's lock while it decodes and resamples, so one thread beside the
    network's is enough for a prepared cache. Buffers are allocated once and used in turn.

    Args:
        dataset: Where the items are.
        items: What is trained on; each has labelled pixels.
        census: Of each item.
        config: Crop size, batch size, augmentation, balance, seed, threads.
        preprocessing: Of the model.
        scale: Pixels of the model per pixel of the data: the data's GSD by the model's.
        soft: Soft labels of the items, None without teachers.
    """

    def __init__(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        census: Sequence[Census],
        config: TrainConfig,
        preprocessing: Preprocessing,
        scale: float,
        soft: SoftLabels | None = None,
    ) -> None:
        self._dataset = dataset
        self._items = items
        self._census = census
        self._config = config
        self._preprocessing = preprocessing
        self._soft = soft
        self._cells = config.crop_px // config.loss.stride
        scenes = (config.across_tiles and dataset.scenes) or {}
        self._surroundings = Surroundings(
            [scenes.get(item.key) for item in items], [(entry.height, entry.width) for entry in census]
        )
        self._sampler = CropSampler(
            census,
            side_px=config.crop_px / scale,
            scale=config.augment.scale,
            balance=config.class_balance,
            seed=config.seed,
            surroundings=self._surroundings if scenes else None,
        )
        self._ahead = 2 * config.loaders
        count, side = config.batch_size, config.crop_px
        self._buffers = [
            Batch(
                np.zeros((count, side, side, 3), np.uint8),
                np.zeros((count, side, side), np.uint8),
                np.zeros((count, 3, 4), np.float32),
                None if soft is None else np.zeros((count, self._cells, self._cells, soft.classes), np.uint8),
            )
            for _ in range(self._ahead + 1)
        ]

    def read(self, n: int) -> Batch:
        """Return batch ``n`` in one of the buffers."""
        batch = self._buffers[n % len(self._buffers)]
        count = self._config.batch_size
        for slot in range(count):
            self._fill(batch, slot, self._sampler[n * count + slot])
        return batch

    def stream(self, first: int) -> Iterator[Batch]:
        """Yield batches from number ``first`` on. Each is valid until the next is asked for."""
        with ThreadPoolExecutor(self._config.loaders, "landcover-loader") as pool:
            pending: deque[Future[Batch]] = deque()
            n = first
            try:
                while True:
                    while len(pending) < self._ahead:
                        pending.append(pool.submit(self.read, n))
                        n += 1
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _fill(self, batch: Batch, slot: int, crop: Crop) -> None:
        pieces = list(self._surroundings.pieces(crop.item, crop.row, crop.col, crop.side))
        image, channels = cut(pieces, crop.side, self._read_image, self._read_channels)
        soft = None if self._soft is None else self._soft.cut(pieces, crop.side, self._cells)
        fill_sample(batch, slot, crop.rng, image, channels, self._config.augment, self._preprocessing, soft)

    def _read_image(self, item: int, window: Window) -> UInt8Array:
        return self._dataset.read_image(self._items[item], window)

    def _read_channels(self, item: int, window: Window) -> UInt8Array:
        return np.take(self._dataset.legend.channels, self._dataset.read_mask(self._items[item], window))
