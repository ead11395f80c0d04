"""The only Ray Data graph of training: plan, read and decode, split over workers, batches.

Each unit of the plan is one task and one block. A task takes half a core, so that two share one: while one waits, for
storage or for Ray, the other decodes; encoded images never enter the object store. ``preserve_order`` keeps the plan's
order, blocks of equal size go to the workers in turn, and every worker checks the unit numbers it is handed: an order
that broke is an error, never a silently different run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from pipelines.plan import MAX_UNIT_BYTES
from pipelines.samples import CAUSES, Decoding, Source, Work, decode_unit, read_unit

TASKS_PER_CORE = 2
"""One decodes while the other waits."""
_PLAN_ROWS = (256, 8192)
"""Fewest and most units of the plan in one table: a table costs the driver milliseconds, and a unit the task that
deals it out, so a long plan is cut into few tables, yet not into one that would hold up the first batch."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One worker's rows of one global batch."""

    units: list[int]
    keys: list[str]
    pixels: np.ndarray
    """uint8 (B, H, W, 3)."""
    ids: np.ndarray
    """int32 (B, T), padded to the recipe's longest caption."""
    causes: np.ndarray
    """int8 (B,): index into ``pipelines.samples.CAUSES``, 0 for a valid row."""
    work: Work = field(default_factory=Work)
    """What these rows took."""

    @property
    def valid(self) -> np.ndarray:
        """bool (B,)."""
        return self.causes == 0

    def count_causes(self) -> np.ndarray:
        """int64 (len(CAUSES),): rows by what became of them."""
        return np.bincount(self.causes, minlength=len(CAUSES))


def build_dataset(source: Source, decoding: Decoding, first_unit: int, stop_unit: int) -> ray.data.Dataset:
    """Units [first_unit, stop_unit) as a lazy dataset, one block a unit; opens only what those units need."""
    source_ref = ray.put(source)
    rows = min(max((stop_unit - first_unit) // 64, _PLAN_ROWS[0]), _PLAN_ROWS[1])
    starts = range(first_unit, stop_unit, rows)
    units = [pa.table({"unit": np.arange(start, min(start + rows, stop_unit))}) for start in starts]
    plan = ray.data.from_arrow(units).repartition(target_num_rows_per_block=1)
    decoded = plan.map_batches(
        _make_block,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1 / TASKS_PER_CORE,
        fn_args=(source_ref, decoding),
    )
    decoded.context.target_max_block_size = 2 * MAX_UNIT_BYTES  # a block above it is cut, and units change hands
    return decoded


def iterate_batches(
    shard: Any, *, rank: int, world_size: int, first_unit: int, units_per_batch: int, prefetch_batches: int
) -> Iterator[Batch]:
    """This worker's batches from its split of the dataset, in order.

    Raises RuntimeError if a unit is not the next one of the plan.
    """
    blocks: list[dict[str, np.ndarray]] = []
    expected = first_unit + rank
    for block in shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=prefetch_batches):
        unit = int(block["unit"][0])
        if unit != expected or not (block["unit"] == unit).all():
            raise RuntimeError(
                f"worker {rank} of {world_size} was handed unit {unit} of the plan instead of {expected}: "
                "the stream lost its order, so training stops here and can be resumed"
            )
        expected += world_size
        blocks.append(block)
        if len(blocks) == units_per_batch // world_size:
            yield _join(blocks)
            blocks = []


def _join(blocks: list[dict[str, np.ndarray]]) -> Batch:
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in ("key", "pixels", "ids", "cause")}
    work = {n: sum(float(b[n].sum()) for b in blocks) for n in ("image_bytes", "read_seconds", "decode_seconds")}
    return Batch(
        units=[int(block["unit"][0]) for block in blocks],
        keys=joined["key"].tolist(),
        pixels=joined["pixels"],
        ids=joined["ids"],
        causes=joined["cause"],
        work=Work(int(work["image_bytes"]), work["read_seconds"], work["decode_seconds"]),
    )


def _make_block(block: pa.Table, source_ref: ray.ObjectRef, decoding: Decoding) -> dict[str, np.ndarray]:
    return decode_unit(read_unit(_fetch_source(source_ref), block.column("unit")[0].as_py()), decoding)


@lru_cache(maxsize=2)
def _fetch_source(source_ref: ray.ObjectRef) -> Source:
    """The source, fetched once per process, so that its plan and filesystem are kept too."""
    return ray.get(source_ref)
