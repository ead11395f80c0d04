"""The real stream on Ray Data: the plan's order for any number of workers, nothing lost, the store within bounds."""

from __future__ import annotations

import os
import signal
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.data

from pipelines.batches import Batch, MicroBatch, Unit, to_block
from pipelines.budget import cluster_budget, execution_options, watch_store
from pipelines.console import Console
from pipelines.job import Job
from pipelines.layout import FILLER, Layout
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.samples import Work
from pipelines.stream import Memory, build_dataset, iterate_batches
from tests.conftest import TINY
from tests.pipelines import test_loop

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
Streams = dict[int, list[list[Batch]]]


def make_job(overrides: list[str], *more: str) -> Job:
    return prepare(load_recipe("shapes", [*overrides, *more]), Console())


def stream(job: Job, workers: int, first_step: int, steps: int, units_per_block: int = 1) -> list[list[Batch]]:
    """Batches by worker, read as Ray Train's workers read them: at once, from a split of one dataset."""
    layout = job.layout(workers)
    dataset = build_dataset(
        job.source, job.decoding, layout, first_step, first_step + steps, cores=2, units_per_block=units_per_block
    )
    dataset.context.execution_options = ray.data.ExecutionOptions(preserve_order=True)

    @ray.remote(num_cpus=0)
    def consume(shard: Any, rank: int) -> list[Batch]:
        return list(iterate_batches(shard, layout, rank=rank, first_batch=first_step, prefetch_blocks=2))

    shards = dataset.streaming_split(workers, equal=True)
    return ray.get([consume.remote(shard, rank) for rank, shard in enumerate(shards)])


def assert_equal(ours: Batch, theirs: Batch) -> None:
    for a, b in zip(ours.micro_batches, theirs.micro_batches, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.ids, b.ids)


def keys_by_step(batches: list[list[Batch]]) -> list[list[str]]:
    return [sorted(key for batch in step for key in batch.keys) for step in zip(*batches, strict=True)]


@pytest.fixture(scope="module")
def streams(ray_cluster: None, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Streams:
    """By the number of workers, the batches of 13 steps, which go beyond two epochs of 200 rows."""
    places = [f"data.url={shapes}/train", f"storage.url={tmp_path_factory.mktemp('streams')}"]
    jobs = {workers: make_job([*TINY, *places], f"scaling.num_workers={workers}") for workers in (1, 2, 4)}
    return {workers: stream(job, workers, 0, 13) for workers, job in jobs.items()}


def test_global_batches_are_the_same_for_1_2_and_4_workers_and_an_epoch_has_each_key_once(
    streams: Streams,
) -> None:
    rows, batch, steps = 200, 32, 13
    for workers, batches in streams.items():
        assert [len(b.keys) for worker in batches for b in worker] == [batch // workers] * (steps * workers)
    assert keys_by_step(streams[1]) == keys_by_step(streams[2]) == keys_by_step(streams[4])
    order = [key for b in streams[1][0] for key in b.keys]
    assert len(set(order[:rows])) == len(set(order[rows : 2 * rows])) == rows
    assert order[:rows] != order[rows : 2 * rows]


def test_three_workers_share_a_batch_of_four_micro_batches(overrides: list[str], streams: Streams) -> None:
    elastic = make_job(overrides, "scaling.num_workers=[1, 3]", "train.micro_batch_size=8")
    batches = stream(elastic, 3, 0, 3)
    assert keys_by_step(batches) == keys_by_step(streams[1])[:3]
    assert {len(batch.micro_batches) for worker in batches for batch in worker} == {2}
    for step in zip(*batches, strict=True):
        assert [len(batch.keys) for batch in step] == [16, 16, 0]
        assert [int(batch.count_causes().sum()) for batch in step] == [16, 16, 0]
        assert all((m.causes == FILLER).all() for m in step[2].micro_batches)


@pytest.mark.parametrize("units_per_block", [3, 8])
def test_blocks_of_several_units_across_batches_are_the_same_stream(
    overrides: list[str], streams: Streams, units_per_block: int
) -> None:
    several = stream(make_job(overrides, "train.micro_batch_size=8"), 2, 0, 13, units_per_block)
    for rank in (0, 1):
        for expected, batch in zip(streams[2][rank], several[rank], strict=True):
            assert batch.keys == expected.keys
            for name in ("pixels", "ids"):
                ours, theirs = (np.concatenate([getattr(m, name) for m in b.micro_batches]) for b in (batch, expected))
                assert np.array_equal(ours, theirs)


def test_a_stream_opened_late_is_the_rest_of_the_stream(overrides: list[str], streams: Streams) -> None:
    late = stream(make_job(overrides), 2, 10, 3)
    for rank in (0, 1):
        for expected, batch in zip(streams[2][rank][10:], late[rank], strict=True):
            assert batch.keys == expected.keys
            assert_equal(batch, expected)


def test_a_lost_order_is_an_error() -> None:
    def block(*numbers: int) -> dict[str, np.ndarray]:
        pixels = np.zeros((len(numbers), 1, 8, 8, 3), np.uint8)
        rows = [MicroBatch(part, np.zeros((1, 4), np.int32), np.zeros(1, np.int8)) for part in pixels]
        return to_block([Unit(n, ["key"], row, Work()) for n, row in zip(numbers, rows, strict=True)], pixels)

    class Shard:
        def iter_batches(self, **_: object) -> list[dict[str, np.ndarray]]:
            return [block(2, 3), block(6, 5)]  # worker 1 of 2 expects 2, 3, then 6, 7

    batches = iterate_batches(Shard(), Layout(4, 2, 2), rank=1, first_batch=0, prefetch_blocks=1)
    assert next(batches).units == [2, 3]
    with pytest.raises(RuntimeError, match=r"handed unit 5 of the plan instead of 7"):
        next(batches)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    memory = Memory()
    first = memory.take(2, 3)
    first[:] = 1
    part, address = first[1:], first.ctypes.data
    del first
    second = memory.take(2, 3)
    second[:] = 2
    assert (part == 1).all()
    del part, second
    third = memory.take(3, 2)
    assert third.ctypes.data != address
    address = third.ctypes.data
    del third
    assert memory.take(3, 2).ctypes.data == address
    assert memory.take(4, 4).shape == (4, 4)


def test_slow_workers_fill_the_object_store_to_its_budget_and_no_further(overrides: list[str]) -> None:
    big = ["model.image.image_size=224", "optim.global_batch_size=64", "data.prefetch_batches=1"]
    job = make_job(overrides, *big)
    needed = cluster_budget(job.recipe, job.source, job.decoding).needed_bytes
    job = make_job(overrides, *big, f"data.object_store_gib={needed / 2**30 + 1e-6}", "name=tight")
    budget, workers = cluster_budget(job.recipe, job.source, job.decoding), 2
    layout = job.layout(workers)
    dataset = build_dataset(
        job.source,
        job.decoding,
        layout,
        0,
        40,
        cores=budget.decode_cores,
        units_per_block=budget.units_per_block,
    )
    dataset.context.execution_options = execution_options(budget)

    @ray.remote(num_cpus=0)
    def consume(shard: Any, rank: int) -> int:
        batches = iterate_batches(shard, layout, rank=rank, first_batch=0, prefetch_blocks=1)
        rows = 0
        for batch in batches:
            rows += len(batch.keys)
            time.sleep(0.25)
        return rows

    with watch_store(0.05) as gauge:
        shards = dataset.streaming_split(workers, equal=True)
        rows = ray.get([consume.remote(shard, rank) for rank, shard in enumerate(shards)])
    assert rows == [40 * 32] * 2
    assert budget.limit_bytes / 2 < gauge.peak_bytes <= budget.limit_bytes


def test_a_killed_decoder_loses_no_unit_and_no_order(overrides: list[str]) -> None:
    job = make_job(overrides, "model.image.image_size=224")
    layout = job.layout(1)
    dataset = build_dataset(job.source, job.decoding, layout, 0, 25, cores=2, units_per_block=2)
    dataset.context.execution_options = ray.data.ExecutionOptions(preserve_order=True)
    (shard,) = dataset.streaming_split(1, equal=True)
    batches = iterate_batches(shard, layout, rank=0, first_batch=0, prefetch_blocks=1)
    keys = next(batches).keys
    os.kill(min(pids("ray::MapWorker")), signal.SIGKILL)
    for batch in batches:
        keys += batch.keys
    undisturbed = [key for batch in islice(test_loop.batches(job, 0), 25) for key in batch.keys]  # read in this process
    assert keys == undisturbed


def pids(title: str) -> list[int]:
    """Processes of this cluster by the title that Ray gives them: others' may run on this machine."""

    @ray.remote(num_cpus=0)
    def raylet_pid() -> int:
        return os.getppid()

    raylet, found = ray.get(raylet_pid.remote()), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "status").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if f"PPid:\t{raylet}\n" in status and command.startswith(title.encode()):
            found.append(int(folder.name))
    return found
