"""What the sampled rows of a dataset have in common: what the images and captions are and what fails to decode."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.inspection.distribution import Distribution, distribution
from pipelines.inspection.rows import Row
from pipelines.samples import CAUSES, VALID

_SHORT_SIDES = (0, 64, 128, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048, 4096, 8192)
_ASPECT_RATIOS = (0, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 0.95, 1.05, 4 / 3, 1.5, 1.8, 2.2, 3)
_EXAMPLES = 10


@dataclass(frozen=True)
class Sample:
    """What the sampled rows have in common. Distributions are None where no row has the property."""

    rows: int
    row_groups: int
    causes: dict[str, int]
    """Rows by what becomes of them: ``valid``, or the cause why they are no pair."""
    failure_keys: dict[str, list[str]]
    formats: dict[str, int]
    modes: dict[str, int]
    short_side: Distribution | None
    aspect_ratio: Distribution | None
    """Width over height."""
    image_bytes: Distribution | None
    median_bytes_per_pixel: float | None
    caption_characters: Distribution | None
    caption_words: Distribution | None
    captions_per_row: Distribution | None
    repeated_images: int
    """Rows whose image bytes an earlier row of the sample has."""
    repeated_captions: int
    most_repeated_captions: dict[str, int]
    repeated_keys: int
    image_size: int
    smaller_than_image_size: int
    """Images whose short side is below ``image_size``."""
    images_per_second_per_core: float | None
    cores: int

    @property
    def images_per_second(self) -> float | None:
        """Images that all cores of this machine decode in a second."""
        return self.images_per_second_per_core and self.images_per_second_per_core * self.cores

    @property
    def failed(self) -> int:
        """Rows that are no pair."""
        return self.rows - self.causes.get(VALID, 0)


def summarize(rows: list[Row], row_groups: int, image_size: int) -> Sample:
    """Counts and distributions over sampled rows."""
    pictures = [row for row in rows if row.width and row.height]
    short_sides = [min(row.width, row.height) for row in pictures]
    texts = [text for row in rows for text in row.captions if text.strip()]
    whole_captions = Counter("\n".join(row.captions) for row in rows if any(text.strip() for text in row.captions))
    causes = Counter(row.cause for row in rows)
    decoding = [row.decode_seconds for row in rows if row.decode_seconds]
    per_pixel = [row.image_bytes / (row.width * row.height) for row in pictures]
    return Sample(
        rows=len(rows),
        row_groups=row_groups,
        causes={cause: causes[cause] for cause in [*CAUSES, *sorted(set(causes) - set(CAUSES))] if causes[cause]},
        failure_keys={
            cause: [row.key for row in rows if row.cause == cause][:_EXAMPLES]
            for cause, _ in causes.most_common()
            if cause != VALID
        },
        formats=dict(Counter(row.format for row in pictures if row.format).most_common()),
        modes=dict(Counter(row.mode for row in pictures if row.mode).most_common()),
        short_side=distribution(short_sides, _SHORT_SIDES),
        aspect_ratio=distribution([row.width / row.height for row in pictures], _ASPECT_RATIOS),
        image_bytes=distribution([row.image_bytes for row in pictures], binary=True),
        median_bytes_per_pixel=float(np.median(per_pixel)) if per_pixel else None,
        caption_characters=distribution([len(text) for text in texts]),
        caption_words=distribution([len(text.split()) for text in texts]),
        captions_per_row=distribution([len(row.captions) for row in rows]),
        repeated_images=_repeated([row.digest for row in rows if row.digest]),
        repeated_captions=whole_captions.total() - len(whole_captions),
        most_repeated_captions={text[:300]: n for text, n in whole_captions.most_common(5) if n > 1},
        repeated_keys=_repeated([row.key for row in rows]),
        image_size=image_size,
        smaller_than_image_size=sum(side < image_size for side in short_sides),
        images_per_second_per_core=len(decoding) / sum(decoding) if decoding else None,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _repeated(values: list[Any]) -> int:
    return len(values) - len(set(values))
