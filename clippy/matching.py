"""Match groups that have no names with classes, over a whole dataset, to score them as if they had been named."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def match_groups(confusion: NDArray[Any]) -> NDArray[np.int64]:
    """Give each class one group and each group one class at most, so that as many pixels as possible are right.

    confusion: (C, K) counts of classes and groups, rows truth, of `clippy.metrics.confusion_matrix`, added up over the
    dataset. Returns (K,) int64: class of each group, or -1 where there are more groups than classes.
    Raises ValueError for a confusion without two dimensions.
    Source: Hungarian matching of unsupervised segmentation (IIC, PiCIE, STEGO).
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2:
        raise ValueError(f"confusion must be (classes, groups) (got shape {confusion.shape})")
    classes, groups = linear_sum_assignment(confusion, maximize=True)
    class_of_group = np.full(confusion.shape[1], -1, dtype=np.int64)
    class_of_group[groups] = classes
    return class_of_group


def matched_confusion(confusion: NDArray[Any]) -> NDArray[np.int64]:
    """Rename groups to the classes of `match_groups`, so that `clippy.metrics` can score them.

    confusion: as there. Returns (C + 1, C + 1) int64, rows truth: the last column holds the pixels of groups without a
    class, which are wrong, and the last row is empty, so that `mean_iou` leaves "no class" out.
    Where each class has pixels and there is a group for each, its `mean_iou` is that of STEGO's UnsupervisedMetrics.
    That also averages in a 0 for a class without pixels that was answered, and one for surplus groups together.
    """
    confusion = np.asarray(confusion)
    num_classes = len(confusion)
    columns = match_groups(confusion) % (num_classes + 1)  # -1 becomes the last column
    matched = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    np.add.at(matched.T, columns, np.pad(confusion, ((0, 1), (0, 0))).T)
    return matched
