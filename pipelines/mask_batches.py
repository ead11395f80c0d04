"""Pictures and masks to learn from, in random crops: which ones a step sees hangs on the seed and the step alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clippy import images
from clippy.crops import numbers_of
from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID, Dataset

LEAST_SIDE = 0.75
"""Of the short side of a picture: crops show objects as large as evaluation does, or up to a third larger."""
_READ_AHEAD = 32
"""Pictures decoded before their batch is wanted."""
READING_THREADS = 2


@dataclass(frozen=True)
class MaskBatches:
    """Batches of square crops of ``size`` pixels; each pass over the pictures is in an order of its own."""

    dataset: Dataset
    targets: NDArray[np.int64]
    """What each class is to be learnt as, or VOID; and one more, VOID, for pixels that are void."""
    size: int
    batch_size: int
    seed: int

    def read_from(self, step: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that follow ``step`` done ones, up to ``steps``: uint8 (B, 3, S, S) and int64 (B, S, S).

        Raises DataError.
        """
        waiting: deque[Future[tuple[NDArray[np.uint8], NDArray[np.int64]]]] = deque()
        coming = iter(range(step * self.batch_size, steps * self.batch_size))
        threads = ThreadPoolExecutor(READING_THREADS)
        try:
            for _ in range(step, steps):
                wanted = self.batch_size + _READ_AHEAD - len(waiting)
                waiting.extend(threads.submit(self.read_crop, number) for number in islice(coming, wanted))
                pixels, masks = zip(*(waiting.popleft().result() for _ in range(self.batch_size)), strict=True)
                yield torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def read_crop(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The crop of that number in the endless row of all: pixels (S, S, 3) and targets (S, S). Raises DataError."""
        passes, place = divmod(number, len(self.dataset))
        example = self.dataset.read(int(_order(len(self.dataset), self.seed, passes)[place]))
        if example.mask is None:
            raise DataError(f"{example.key}: has no mask to learn from")
        share, down, along, mirror = numbers_of(4, "crop", self.seed, number)
        height, width = example.mask.shape
        side = max(1, round(min(height, width) * (LEAST_SIDE + share * (1 - LEAST_SIDE))))
        top, left = int(down * (height - side + 1)), int(along * (width - side + 1))
        pixels = images.resize(example.pixels[top : top + side, left : left + side], self.size, self.size)
        middles = ((np.arange(self.size) + 0.5) * side / self.size).astype(np.int64)
        mask = self.targets[example.mask[top + middles[:, None], left + middles]]
        if mirror < 0.5:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        return pixels, mask


def targets_of(num_classes: int, learnt: list[int]) -> NDArray[np.int64]:
    """``MaskBatches.targets`` for the classes that are learnt, numbered in that order; all others are void."""
    targets = np.full(num_classes + 1, VOID, dtype=np.int64)  # VOID, -1, reads the last one
    targets[learnt] = np.arange(len(learnt))
    return targets


@lru_cache(maxsize=4)
def _order(length: int, seed: int, passes: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, passes]).permutation(length)
