"""Whether a dataset is fit to train on and what to change: facts about all of it, a closer look at some rows, advice.

Reads only: nothing is written beside the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.columns import DataError
from pipelines.inspection.advice import Advice, advise
from pipelines.inspection.layout import Layout, describe_layout, find_manifest, read_footers, read_import
from pipelines.inspection.rows import Row, pick_rows, read_rows
from pipelines.inspection.sample import Sample, summarize
from pipelines.sections import DatasetConfig

SAMPLE_ROWS = 512
IMAGE_SIZE = 224


@dataclass(frozen=True)
class Inspection:
    """Everything that ``clippy data inspect`` found."""

    url: str
    layout: Layout
    sample: Sample
    imported: dict[str, Any] | None
    """What ``clippy data import`` left beside the data."""
    advice: list[Advice]
    rows: list[Row]
    """The sampled rows, in the order of the dataset."""

    @property
    def storage_bytes_per_second(self) -> float | None:
        """What storage must give so that all cores of this machine can decode."""
        rate = self.sample.images_per_second
        return rate and rate * self.layout.bytes_per_row

    def as_dict(self) -> dict[str, Any]:
        """All facts with machine names, in types that JSON has; without the rows themselves."""
        layout, sample = asdict(self.layout), asdict(self.sample)
        layout["bytes_per_row"] = self.layout.bytes_per_row
        sample["failed"] = self.sample.failed
        sample["images_per_second"] = self.sample.images_per_second
        return {
            "url": self.url,
            "fit": not any(advice.problem for advice in self.advice),
            **layout,
            "sample": sample,
            "storage_bytes_per_second": self.storage_bytes_per_second,
            "import": self.imported,
            "advice": [asdict(advice) for advice in self.advice],
        }


def inspect_data(
    data: DatasetConfig,
    sample_rows: int = SAMPLE_ROWS,
    image_size: int = IMAGE_SIZE,
    thumbnails: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Inspection:
    """Inspect a dataset; ``progress(what, done, all)`` is called as shards and row groups are read.

    The same dataset gives the same sample. Raises DataError for one that cannot be read, and for arguments that make
    no sense.
    """
    if sample_rows < 1:
        raise DataError(f"--sample-rows: {sample_rows} rows show nothing; give at least 1")
    if not 8 <= image_size <= 4096:
        raise DataError(f"--image-size: {image_size} is no size to train at; give 8 to 4096 pixels")

    def tell(what: str) -> Callable[[int, int], None] | None:
        return progress and (lambda done, total: progress(what, done, total))

    manifest, state = find_manifest(data, tell("shards"))
    picks = pick_rows(manifest, sample_rows)
    footers = read_footers(data, manifest, [int(manifest.shard_of_group[pick.group]) for pick in picks] or [0])
    layout = describe_layout(manifest, state, footers)
    rows = read_rows(data, manifest, picks, footers, image_size, thumbnails, tell("row groups sampled"))
    sample = summarize(rows, len(picks), image_size)
    return Inspection(data.url, layout, sample, read_import(data), advise(data, layout, sample), rows)
