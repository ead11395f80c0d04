"""The input without its model: figures that hang together, and the object store kept to its budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.bench import bench
from pipelines.console import Console
from pipelines.recipe import load_recipe
from pipelines.throughput import Throughput, verdict


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_bench_reads_a_recipe_and_leaves_no_run_behind(overrides: list[str]) -> None:
    recipe = load_recipe("shapes", [*overrides, "scaling.decode_cores=2"])
    result = bench(recipe, 40, Console())
    assert result.images_per_second > 0
    assert result.bytes_per_second / result.images_per_second == pytest.approx(5000, rel=0.3)  # an image of the set
    begun, ended = result.timed
    assert ended - begun == pytest.approx(20 * result.global_batch_size / result.images_per_second)
    assert 0 < result.object_store_peak_bytes <= result.object_store_limit_bytes
    assert result.decode_limit == pytest.approx(result.decode_images_per_core * result.cores)
    assert result.decode_share == pytest.approx(result.images_per_second / result.decode_limit)
    assert result.block_rows * 16 * 2 <= 40 * result.global_batch_size, "few blocks come all at once"
    assert result.decode_share < 1, "batches that came together were timed, not the stream"
    assert not result.invalid_rows
    assert result.verdict in result.as_text()
    assert not Path(recipe.storage.url).exists()


def test_figures_and_what_they_were_made_from_are_the_same() -> None:
    one = Throughput(images=600, seconds=2.0, image_bytes=60_000, read_seconds=1.5, decode_seconds=3.0)
    again = Throughput.from_figures(one.figures(), 600)
    assert again.figures() == pytest.approx(one.figures())
    assert (one + one).images_per_second == one.images_per_second
    assert one.decode_images_per_core == 200
    assert one.decode_share(cores=2) == 0.75


@pytest.mark.parametrize(
    ("throughput", "block_rows", "expected"),
    [
        (Throughput(1000, 1.0, 1, 0.1, 1.8), 256, "decoding is the limit: 2 cores are 90% busy"),
        (Throughput(1000, 1.0, 1, 0.1, 0.2), 4, "the size of blocks is the limit: 250 a second of 4 rows"),
        (Throughput(1000, 1.0, 1, 5.0, 0.5), 256, "reading is the limit: 5.0 ms an image against 0.5 ms"),
        (Throughput(1000, 1.0, 1, 0.1, 0.5), 256, "neither decoding"),
    ],
)
def test_the_verdict_names_what_bounds_the_input(throughput: Throughput, block_rows: int, expected: str) -> None:
    assert verdict(throughput, 2, block_rows).startswith(expected)
