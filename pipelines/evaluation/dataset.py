"""What every benchmark's data look like to what measures them: numbered pictures with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.columns import DataError

VOID = -1
"""Id of pixels that are not counted, in masks and in segments."""


@dataclass(frozen=True)
class Region:
    """An annotated object: its class, its box in pixels (left, top, right, bottom), its pixels if they are known."""

    label: int
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Example:
    """A picture at its own size, uint8 (H, W, 3), and what its benchmark knows of it; None is what it does not."""

    key: str
    """Names the picture, the same on every machine."""
    pixels: NDArray[np.uint8]
    label: int | None = None
    """Class of the whole picture."""
    mask: NDArray[np.int32] | None = None
    """(H, W): class of each pixel, or VOID."""
    segments: NDArray[np.int32] | None = None
    """(H, W): annotated segment of each pixel whatever its class, 0 the ground, or VOID."""
    regions: tuple[Region, ...] = ()
    attributes: Mapping[str, int] = field(default_factory=dict)
    """Further facts, such as the background that a bird stands on."""

    def require_label(self) -> int:
        """The label, for a question about whole pictures. Raises DataError for a picture that alone has none."""
        if self.label is None:
            raise DataError(f"{self.key}: has no label, and other pictures have; give it one, or leave it out")
        return self.label

    def require_mask(self) -> NDArray[np.int32]:
        """The mask, for a question about pixels. Raises DataError for a picture that alone has none."""
        if self.mask is None:
            raise DataError(f"{self.key}: has no mask, and other pictures have; give it one, or leave it out")
        return self.mask


class Dataset(Protocol):
    """Pictures by number. It can be pickled, and threads may read from it at once."""

    def __len__(self) -> int:
        """How many there are; known without reading any."""

    def read(self, index: int) -> Example:
        """One of them. Raises DataError, naming the file, for what is missing or cannot be read."""
