"""Pictures with a mask beside each, as most benchmarks of segmentation have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.columns import DataError
from pipelines.evaluation.dataset import Example
from pipelines.evaluation.datasets.files import Layout, exists, read_file, read_text
from pipelines.evaluation.datasets.labels import IdMap, decode_numbers, decode_picture
from pipelines.storage import Location

Segments = Callable[[NDArray[np.integer], NDArray[np.int32]], NDArray[np.int32]]
"""Numbers stored in a file of segments, and the mask, to ``Example.segments``."""


@dataclass(frozen=True, eq=False)
class MaskedPictures:
    """Pictures, masks and segments of the same names; ``{}`` in a path stands for the name."""

    folder: Location
    names: tuple[str, ...]
    picture: str
    mask: str
    classes: IdMap
    segments: tuple[str, Segments] | None = None
    """Their path, and what they store; ``dataclasses.replace`` it by None to save the reading where none are needed."""

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Example:
        """A picture with mask and segments. Raises DataError."""
        name = self.names[index]
        picture, mask_file = self.folder / self.picture.format(name), self.folder / self.mask.format(name)
        pixels = decode_picture(read_file(picture), picture.url)
        stored = decode_numbers(read_file(mask_file), mask_file.url, pixels, picture.url)
        mask = self.classes(stored, mask_file.url)
        segments = None
        if self.segments is not None:
            path, convert = self.segments
            file = self.folder / path.format(name)
            segments = convert(decode_numbers(read_file(file), file.url, pixels, picture.url), mask)
        return Example(name, pixels, mask=mask, segments=segments)


def checked(dataset: MaskedPictures, layout: Layout, root: Location) -> MaskedPictures:
    """The dataset, if it has pictures and the first of them is there with its mask. Raises DataError."""
    name = dataset.names[0] if dataset.names else "*"
    for path in (dataset.picture, dataset.mask):
        file = dataset.folder / path.format(name)
        if not dataset.names or not exists(file):
            raise layout.missing(root, file.url.removeprefix(f"{root.url.rstrip('/')}/"))
    return dataset


def read_names(file: Location) -> tuple[str, ...]:
    """The names of an image set: a line each, the first word. Raises DataError for an empty one."""
    names = tuple(line.split()[0] for line in read_text(file).splitlines() if line.strip())
    if not names:
        raise DataError(f"{file.url}: names no picture")
    return names
