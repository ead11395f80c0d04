"""K-means by direction: centres are their points' unit means, and each point is with its nearest."""

import pytest
import torch
import torch.nn.functional as F

from clippy.kmeans import k_means, k_means_centres


def test_centres_are_the_unit_means_of_points_that_are_nearest_to_them() -> None:
    points_ND = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    centres_KD, groups_N = k_means_centres(points_ND, 6, seed=1), k_means(points_ND, 6, seed=1)
    unit_ND = F.normalize(points_ND, dim=1)
    assert torch.equal(groups_N, (unit_ND @ centres_KD.T).argmax(dim=1))
    for group, centre_D in enumerate(centres_KD):
        torch.testing.assert_close(centre_D, F.normalize(unit_ND[groups_N == group].sum(dim=0), dim=0))


def test_directions_apart_are_found_whatever_their_lengths() -> None:
    points_ND = torch.eye(3).repeat(4, 1) * torch.arange(1, 13)[:, None]
    assert sorted(k_means_centres(points_ND, 3, seed=0).tolist(), reverse=True) == torch.eye(3).tolist()
    groups_N = k_means(points_ND, 3, seed=0)
    assert groups_N.tolist() == groups_N[:3].repeat(4).tolist()


def test_there_are_fewer_centres_where_points_coincide() -> None:
    assert k_means_centres(torch.eye(2).repeat(5, 1), 4, seed=0).shape == (2, 2)
    with pytest.raises(ValueError, match=r"needs a point and a group \(got 0 and 2\)"):
        k_means_centres(torch.zeros(0, 3), 2, seed=0)
