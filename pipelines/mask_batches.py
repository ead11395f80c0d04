"""Pictures and masks to learn from, in random crops: which ones a step sees hangs on the seed and the step alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clippy import images
from clippy.crops import RandomResizedCrop, numbers_of
from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID, Dataset

CROP = RandomResizedCrop(scale=(0.25, 1.0), ratio=(3 / 4, 4 / 3))
"""What is shown of a picture: objects at the size that evaluation shows them, up to twice that."""
_TRIES = 10
_READ_AHEAD = 32
"""Pictures decoded before they are wanted, at least."""
READING_THREADS = 2


@dataclass(frozen=True)
class MaskBatches:
    """Batches of crops of ``size`` pixels; each pass over the pictures is in an order of its own."""

    dataset: Dataset
    targets: NDArray[np.int64]
    """What each class is to be learnt as, or VOID; and one more, VOID, for pixels that are void."""
    size: int
    batch_size: int
    seed: int

    def read_from(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches from a step on, without end: uint8 (B, 3, S, S) and int64 (B, S, S). Raises DataError."""
        waiting: deque[Future[tuple[NDArray[np.uint8], NDArray[np.int64]]]] = deque()
        coming = step * self.batch_size
        threads = ThreadPoolExecutor(READING_THREADS)
        try:
            while True:
                while len(waiting) < self.batch_size + _READ_AHEAD:
                    waiting.append(threads.submit(self.read_crop, coming))
                    coming += 1
                pixels, masks = zip(*(waiting.popleft().result() for _ in range(self.batch_size)), strict=True)
                yield torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def read_crop(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The crop of that number in the endless row of all: pixels (S, S, 3) and targets (S, S). Raises DataError."""
        passes, place = divmod(number, len(self.dataset))
        example = self.dataset.read(_order(len(self.dataset), self.seed, passes)[place])
        if example.mask is None:
            raise DataError(f"{example.key}: has no mask to learn from")
        *draws, side = numbers_of(4 * _TRIES + 1, "crop", self.seed, number)
        left, top, width, height = CROP.box(example.pixels.shape[1], example.pixels.shape[0], draws)
        pixels = images.resize(example.pixels[top : top + height, left : left + width], self.size, self.size)
        rows, columns = (_nearest(length, self.size) for length in (height, width))
        mask = self.targets[example.mask[top + rows[:, None], left + columns]]
        if side < 0.5:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        return pixels, mask


def targets_of(num_classes: int, learnt: list[int]) -> NDArray[np.int64]:
    """``MaskBatches.targets`` for the classes that are learnt, numbered in that order; all others are void."""
    targets = np.full(num_classes + 1, VOID, dtype=np.int64)  # VOID, -1, reads the last one
    targets[learnt] = np.arange(len(learnt))
    return targets


def _nearest(length: int, size: int) -> NDArray[np.int64]:
    """For each of ``size`` pixels that a side of ``length`` becomes, the pixel that lies in its middle."""
    return ((np.arange(size) + 0.5) * length / size).astype(np.int64)


@lru_cache(maxsize=4)
def _order(length: int, seed: int, passes: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, passes]).permutation(length)
