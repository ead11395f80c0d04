"""What several tests of whole runs compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TINY

Run = tuple[Path, list[str]]


@pytest.fixture(scope="session")
def undisturbed(ray_cluster: None, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on Ray Train that nothing disturbed, and its overrides: two workers, 30 steps, a ledger."""
    from pipelines.console import Console
    from pipelines.recipe import load_recipe
    from pipelines.train import run

    storage = tmp_path_factory.mktemp("undisturbed")
    places = [f"data.url={shapes}/train", f"eval.url={shapes}", f"storage.url={storage}"]
    overrides = [*TINY, *places, "train.steps=30", "train.ledger=true"]
    summary = run(load_recipe("shapes", overrides), Console())
    assert (summary.status, summary.starts) == ("finished", 1)
    return storage / "shapes", overrides
