"""Spherical k-means: the plain way to group patches, a control for grouping by principal components.

Shapes: N points, D width, K groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 50


@torch.inference_mode()
def k_means(points_ND: Tensor, num_groups: int, seed: int, iterations: int = ITERATIONS) -> Tensor:
    """Group points by direction: each joins the centre of highest cosine of ``k_means_centres``.

    Returns (N,) int64 in 0..K-1, fewer groups where points coincide. Raises ValueError as there.
    """
    centres_KD = k_means_centres(points_ND, num_groups, seed, iterations)
    return (F.normalize(points_ND.float(), dim=-1) @ centres_KD.T).argmax(dim=1)


@torch.inference_mode()
def k_means_centres(points_ND: Tensor, num_groups: int, seed: int, iterations: int = ITERATIONS) -> Tensor:
    """The unit means of groups of points, each of which is nearest to its own by cosine: (K, D) float32.

    The first centres are points far apart (k-means++), drawn with ``seed``. Stops early where nothing moves; a group
    that lost all its points keeps its centre, and K is smaller where points coincide. Raises ValueError for
    num_groups < 1 or no points.
    """
    if num_groups < 1 or not len(points_ND):
        raise ValueError(f"k-means needs a point and a group (got {len(points_ND)} and {num_groups})")
    unit_ND = F.normalize(points_ND.float(), dim=-1)
    centres_KD = _first_centres(unit_ND, num_groups, torch.Generator().manual_seed(seed))
    groups_N = (unit_ND @ centres_KD.T).argmax(dim=1)
    for _ in range(iterations):
        sums_KD = torch.zeros_like(centres_KD).index_add_(0, groups_N, unit_ND)
        empty_K = sums_KD.norm(dim=1) == 0
        centres_KD = torch.where(empty_K[:, None], centres_KD, F.normalize(sums_KD, dim=-1))
        moved_N = (unit_ND @ centres_KD.T).argmax(dim=1)
        if torch.equal(moved_N, groups_N):
            break
        groups_N = moved_N
    return centres_KD


def _first_centres(unit_ND: Tensor, num_groups: int, generator: torch.Generator) -> Tensor:
    """Points drawn one after the other, in proportion to the squared distance from those already drawn."""
    index = int(torch.randint(len(unit_ND), (1,), generator=generator))
    chosen = [index]
    distance_N = torch.full((len(unit_ND),), torch.inf)
    for _ in range(num_groups - 1):
        distance_N = torch.minimum(distance_N, (2 - 2 * (unit_ND @ unit_ND[chosen[-1]])).clamp(min=0).cpu())
        if distance_N.sum() == 0:  # all points coincide with a centre
            break
        chosen.append(int(torch.multinomial(distance_N, 1, generator=generator)))
    return unit_ND[chosen]
