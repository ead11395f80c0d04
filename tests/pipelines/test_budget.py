"""The object store's budget: the arithmetic, and the refusal before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from clippy.architecture import TextConfig
from clippy.tokens import build_tokenizer
from pipelines.budget import plan_budget
from pipelines.console import Console
from pipelines.job import Job
from pipelines.prepare import find_datasets, make_job, make_source
from pipelines.recipe import load_recipe

GIB = 2**30


def job(shapes: Path, *overrides: str) -> Job:
    recipe = load_recipe("shapes", [f"data.url={shapes}/train", *overrides])
    tokenizer = build_tokenizer(TextConfig(tokenizer="bytes", max_tokens=32))
    return make_job(recipe, make_source(recipe, find_datasets(recipe, Console())), tokenizer)


def budget(shapes: Path, *overrides: str, cores: int = 2, store: int = 4 * GIB):
    of = job(shapes, *overrides)
    return plan_budget(of.recipe, of.source, of.decoding, cores, store)


def test_a_budget_covers_what_workers_hold_and_cores_make(shapes: Path) -> None:
    small = budget(shapes)
    assert small.unit_bytes >= 64 * 64 * 64 * 3
    assert small.needed_bytes >= 2 * 4 * small.unit_bytes
    assert small.needed_bytes <= small.limit_bytes <= small.store_bytes
    assert budget(shapes, "data.prefetch_batches=9").needed_bytes > small.needed_bytes
    assert budget(shapes, cores=32).needed_bytes > small.needed_bytes


def test_small_units_share_a_block_and_large_ones_or_a_tight_store_get_one_each(shapes: Path) -> None:
    large = ["model.image.image_size=224", "optim.global_batch_size=512"]
    roomy = budget(shapes, *large)
    assert roomy.units_per_block == 3  # 256 rows of 224 pixels are 37 MiB
    assert budget(shapes, *large, store=GIB).units_per_block == 1
    assert budget(shapes, *large, "data.object_store_gib=0.7").units_per_block == 1
    assert budget(shapes, "model.image.image_size=448", "optim.global_batch_size=512").units_per_block == 1
    small = budget(shapes)
    assert small.units_per_block > 3
    assert small.units_per_block * small.prefetch_blocks >= 4  # data.prefetch_batches


def test_what_is_told_is_the_limit(shapes: Path) -> None:
    assert budget(shapes, "data.object_store_gib=0.5").limit_bytes == GIB // 2


def test_a_budget_that_cannot_fit_is_refused_with_numbers_and_field(shapes: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.object_store_gib: 0\.001 is less than the 0\.\d+ that \d+ units"):
        budget(shapes, "data.object_store_gib=0.001")
    with pytest.raises(ValueError, match=r"data\.prefetch_batches: .* lower data\.prefetch_batches \(4000\)"):
        budget(shapes, "data.prefetch_batches=4000", store=GIB)
