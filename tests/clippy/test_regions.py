"""Embeddings of regions: shares of patches worked out by hand, and RoIAlign's own interpolation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clippy.regions import ALIGN_POINTS, align_weights, box_weights, mask_weights, pool_regions

# A picture of 4 x 8 pixels in patches of 2 x 2 pixels.
SIZE, GRID = (4, 8), (2, 4)


def test_shares_of_patches_by_hand() -> None:
    # Rows 0 to 3 of pixels, of which the second patch has half; columns 1 to 4, half of the first patch and the second.
    (weights_hw,) = box_weights([(1, 0, 4, 3)], SIZE, GRID)
    assert weights_hw.tolist() == [[0.5, 1, 0, 0], [0.25, 0.5, 0, 0]]


def test_a_box_beyond_the_picture_is_cut_off_and_an_empty_one_is_its_nearest_patch() -> None:
    beyond, outside, point = box_weights([(6, -5, 99, 2), (20, 1, 30, 3), (3, 3, 3, 3)], SIZE, GRID)
    assert beyond.nonzero().tolist() == [[0, 3]]
    assert outside.tolist() == [[0, 0, 0, 0.5], [0, 0, 0, 0.5]]
    assert point.nonzero().tolist() == [[1, 1]]


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.integers(1, 5)] * 2),
    st.tuples(*[st.integers(1, 12)] * 2),
    st.lists(st.floats(0, 1), min_size=4, max_size=4, unique=True),
)
def test_a_mask_of_a_box_weighs_as_the_box(grid: tuple[int, int], size: tuple[int, int], ends: list[float]) -> None:
    (top, bottom), (left, right) = (sorted(round(end * side) for end in ends[k::2]) for k, side in enumerate(size))
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    weights = mask_weights(mask, grid)
    patch_area = size[0] * size[1] / (grid[0] * grid[1])
    assert float(weights.sum()) == pytest.approx((bottom - top) * (right - left) / patch_area, abs=1e-4)
    if bottom > top and right > left:
        torch.testing.assert_close(weights, box_weights([(left, top, right, bottom)], size, grid))


def test_aligned_boxes_are_the_mean_of_interpolated_points() -> None:
    generator = torch.Generator().manual_seed(0)
    patches_hwD, box = torch.randn(5, 7, 3, generator=generator), (13.0, 8.5, 61.0, 40.0)
    height, width = 60, 90
    share = (np.arange(ALIGN_POINTS) + 0.5) / ALIGN_POINTS
    x = (box[0] + (box[2] - box[0]) * share) / width * 2 - 1
    y = (box[1] + (box[3] - box[1]) * share) / height * 2 - 1
    points = torch.tensor(np.stack(np.meshgrid(x, y), axis=-1), dtype=torch.float32)[None]
    sampled = F.grid_sample(patches_hwD.permute(2, 0, 1)[None], points, padding_mode="border", align_corners=False)
    weights = align_weights([box], (height, width), (5, 7))
    assert float(weights.sum()) == pytest.approx(1)
    mean_D = torch.einsum("rhw,hwd->rd", weights, patches_hwD)[0]
    torch.testing.assert_close(mean_D, sampled.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-5)


def test_aligned_boxes_within_one_patch_differ() -> None:
    left, right = align_weights([(2, 0, 2.5, 2), (3.5, 0, 4, 2)], SIZE, GRID)
    assert left[0, 0] > left[0, 2] == 0
    assert right[0, 2] > right[0, 0] == 0


def test_pooling_by_hand() -> None:
    patches_hwD = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]]])
    weights_Rhw = torch.tensor([[[1.0, 0.5, 0.0]], [[1.0, 0.25, 0.0]], [[0.0, 0.0, 0.0]]])
    mean = pool_regions(patches_hwD, weights_Rhw)
    torch.testing.assert_close(mean[0], F.normalize(torch.tensor([3.0, 2.0]), dim=0))
    # The second patch weighs half of the first, so it counts in full; a quarter does not.
    maximum = pool_regions(patches_hwD, weights_Rhw, "max")
    torch.testing.assert_close(maximum[0], F.normalize(torch.tensor([3.0, 4.0]), dim=0))
    torch.testing.assert_close(maximum[1], torch.tensor([1.0, 0.0]))
    assert mean[2].tolist() == maximum[2].tolist() == [0, 0]


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_no_regions(pooling: str) -> None:
    patches_hwD = torch.ones(2, 4, 3)
    for weights in (box_weights([], SIZE, GRID), mask_weights(torch.zeros(0, *SIZE, dtype=torch.bool), GRID)):
        assert weights.shape == (0, *GRID)
        assert pool_regions(patches_hwD, weights, pooling).shape == (0, 3)  # type: ignore[arg-type]
    assert align_weights([], SIZE, GRID).shape == (0, *GRID)
