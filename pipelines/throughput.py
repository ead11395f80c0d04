"""Figures of the input pipeline, and what they say in words. The same in training and in ``clippy data bench``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Throughput:
    """What the stream delivered and what its tasks spent, over some batches of all workers."""

    images: int
    seconds: float
    image_bytes: int
    """Encoded."""
    read_seconds: float
    """Over all tasks; many wait at once."""
    decode_seconds: float
    """Over all tasks; each keeps one core busy."""

    @property
    def images_per_second(self) -> float:
        """Delivered."""
        return self.images / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Encoded bytes of the images delivered."""
        return self.image_bytes / self.seconds

    @property
    def decode_images_per_core(self) -> float:
        """Images a second that one core decodes while it does nothing else."""
        return self.images / self.decode_seconds if self.decode_seconds else 0.0

    def decode_share(self, cores: float) -> float:
        """Images delivered as a share of what ``cores`` could decode at that speed."""
        limit = self.decode_images_per_core * cores
        return self.images_per_second / limit if limit else 0.0

    def __add__(self, other: Throughput) -> Throughput:
        return Throughput(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def from_figures(cls, figures: Mapping[str, float], images: int) -> Throughput:
        """What ``figures`` of so many images were made from."""
        seconds = images / figures["images_per_second"]
        per_core = figures["decode_images_per_core"]
        return cls(
            images,
            seconds,
            round(figures["bytes_per_second"] * seconds),
            figures["read_seconds_per_image"] * images,
            images / per_core if per_core else 0.0,
        )

    def figures(self) -> dict[str, float]:
        """For logs and metrics."""
        return {
            "images_per_second": self.images_per_second,
            "bytes_per_second": self.bytes_per_second,
            "decode_images_per_core": self.decode_images_per_core,
            "read_seconds_per_image": self.read_seconds / max(1, self.images),
        }


_BLOCKS_PER_CORE = 8
"""Ray needs some hundredths of a second for a block of any size: at more blocks a second than this, it shows."""


def verdict(throughput: Throughput, cores: float, block_rows: int) -> str:
    """What bounds the input, and what to change."""
    share = throughput.decode_share(cores)
    blocks = throughput.images_per_second / block_rows
    read, decode = (s / throughput.images * 1e3 for s in (throughput.read_seconds, throughput.decode_seconds))
    if share > 0.7:
        return (
            f"decoding is the limit: {cores:g} cores are {share:.0%} busy with it; add CPU nodes, or store smaller "
            "images (clippy data import --max-short-side)"
        )
    if blocks > _BLOCKS_PER_CORE * cores:
        return (
            f"the size of blocks is the limit: {blocks:.0f} a second of {block_rows} rows; a larger "
            "optim.global_batch_size makes larger ones"
        )
    if read > 2 * decode:
        return (
            f"reading is the limit: {read:.1f} ms an image against {decode:.1f} ms to decode; bring the data nearer, "
            "or use row groups no larger than a worker's batch"
        )
    return (
        f"neither decoding ({share:.0%} of {cores:g} cores) nor reading is the limit: the stream waits for its "
        "consumers or for memory; raise data.prefetch_batches or data.object_store_gib"
    )
