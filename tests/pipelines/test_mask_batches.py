"""Crops of pictures and masks: together, in an order that seed and step fix, each picture once a pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pipelines.columns import DataError
from pipelines.evaluation.dataset import VOID, Example
from pipelines.mask_batches import MaskBatches, targets_of


@dataclass
class Halves:
    """Pictures of several sizes, red on the left and blue on the right, class 2 and class 0; void at the top."""

    pictures: int = 5
    read_so_far: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.pictures

    def read(self, index: int) -> Example:
        self.read_so_far.append(index)
        height, width = 60 + 10 * index, 100
        pixels, mask = np.zeros((height, width, 3), dtype=np.uint8), np.zeros((height, width), dtype=np.int32)
        pixels[:, :50, 0], pixels[:, 50:, 2] = 255, 255
        pixels[:20, :, 1] = 255
        mask[:, :50] = 2
        mask[:20] = VOID
        return Example(str(index), pixels, mask=mask)


def batches_of(dataset: Halves, **changes: int) -> MaskBatches:
    return MaskBatches(dataset, targets_of(3, [0, 2]), **{"size": 32, "batch_size": 3, "seed": 0, **changes})


def erode(wrong: np.ndarray) -> np.ndarray:
    """What is left of an area without its rim: nothing of lines that are up to two pixels wide."""
    return np.lib.stride_tricks.sliding_window_view(wrong, (3, 3)).all(axis=(2, 3))


def test_targets_number_what_is_learnt_and_void_the_rest() -> None:
    targets = targets_of(4, [1, 3])
    mask = np.array([0, 1, 2, 3, VOID])
    assert targets[mask].tolist() == [VOID, 0, VOID, 1, VOID]


def test_masks_lie_where_their_pictures_do() -> None:
    batches, seen = batches_of(Halves(), size=64), Counter[str]()
    for number in range(40):
        pixels, targets = batches.read_crop(number)
        assert pixels.shape == (64, 64, 3)
        assert targets.shape == (64, 64)
        red, green, blue = (pixels[..., i] > 127 for i in range(3))
        expected = np.where(green, VOID, np.where(red, 1, 0))
        # An edge may lie a pixel off, as picture and mask are brought to size in different ways.
        assert not erode(expected != targets).any()
        both = red[-1].any() and blue[-1].any()
        seen["left" if both and red[-1, 0] else "mirrored" if both else "one half"] += 1
    assert min(seen["left"], seen["mirrored"]) > 5  # both ways round occur


def test_each_pass_shows_each_picture_once_in_another_order() -> None:
    dataset = Halves(pictures=6)
    batches = batches_of(dataset)
    for number in range(18):
        batches.read_crop(number)
    passes = [dataset.read_so_far[start : start + 6] for start in (0, 6, 12)]
    assert [sorted(one) for one in passes] == [list(range(6))] * 3
    assert len(set(map(tuple, passes))) > 1


def test_a_later_start_goes_on_with_the_same_batches() -> None:
    whole = list(batches_of(Halves()).read_from(0, 6))
    rest = list(batches_of(Halves()).read_from(4, 6))
    assert len(whole) == 6
    for (images, targets), (others, other_targets) in zip(whole[4:], rest, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, other_targets)
        assert (images.dtype, images.shape) == (torch.uint8, (3, 3, 32, 32))
        assert (targets.dtype, targets.shape) == (torch.int64, (3, 32, 32))
    other_seed = next(batches_of(Halves(), seed=1).read_from(0, 6))
    assert not torch.equal(other_seed[0], whole[0][0])


def test_a_picture_without_mask_is_named() -> None:
    class Bare(Halves):
        def read(self, index: int) -> Example:
            return Example(f"picture {index}", np.zeros((8, 8, 3), dtype=np.uint8))

    with pytest.raises(DataError, match=r"^picture 0: has no mask to learn from$"):
        next(batches_of(Bare(pictures=1)).read_from(0, 1))
