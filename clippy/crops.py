"""Random crops that depend on the sample alone: no generator, no state, no worker."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clippy.images import Box


@dataclass(frozen=True)
class RandomResizedCrop:
    """torchvision's ``RandomResizedCrop``: a part of ``scale`` of the area and of a width to height in ``ratio``."""

    scale: tuple[float, float]
    ratio: tuple[float, float]

    def box(self, width: int, height: int, numbers: Sequence[float]) -> Box:
        """The part of a picture that four numbers per try, each in [0, 1), decide; ten tries, then the centre."""
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for i in range(0, len(numbers), 4):
            area, shape, x, y = numbers[i : i + 4]
            target = width * height * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            ratio = math.exp(log_low + shape * (log_high - log_low))
            part_width, part_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < part_width <= width and 0 < part_height <= height:
                left, top = int(x * (width - part_width + 1)), int(y * (height - part_height + 1))
                return left, top, part_width, part_height
        return self._centre(width, height)

    def _centre(self, width: int, height: int) -> Box:
        """The largest middle part whose shape is allowed."""
        part_width = min(width, max(1, round(height * self.ratio[1])))
        part_height = min(height, max(1, round(width / self.ratio[0])))
        return (width - part_width) // 2, (height - part_height) // 2, part_width, part_height


def numbers_of(count: int, *parts: object) -> list[float]:
    """``count`` numbers in [0, 1) fixed for ever by what ``parts`` print as."""
    text = "\0".join(map(str, parts)).encode()
    stream = hashlib.shake_128(text).digest(4 * count)
    return [int.from_bytes(stream[i : i + 4], "little") / 2**32 for i in range(0, 4 * count, 4)]
