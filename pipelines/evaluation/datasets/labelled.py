"""Pictures of which the class is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.dataset import Example
from pipelines.evaluation.datasets.files import read_file
from pipelines.evaluation.datasets.labels import decode_picture
from pipelines.storage import Location


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Files in a folder, with a class and perhaps further numbers for each."""

    folder: Location
    files: tuple[str, ...]
    labels: NDArray[np.int32]
    attributes: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Example:
        """A picture with its class. Raises DataError."""
        name = self.files[index]
        file = self.folder / name
        pixels = decode_picture(read_file(file), file.url)
        attributes = {key: int(values[index]) for key, values in self.attributes.items()}
        return Example(name, pixels, label=int(self.labels[index]), attributes=attributes)
