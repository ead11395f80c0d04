"""All that a training needs to know, on the driver and on every worker. Imports no ray."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.checkpoints import committed_steps
from pipelines.layout import Layout
from pipelines.recipe import Recipe
from pipelines.run_folder import RunFolder
from pipelines.samples import Decoding, Source
from pipelines.storage import locate


@dataclass(frozen=True, eq=False)
class Job:
    """Recipe, order of samples, and how rows become arrays; travels to the workers as it is."""

    recipe: Recipe
    source: Source
    decoding: Decoding

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(locate(self.recipe.run_url, self.recipe.storage.storage_options))

    def layout(self, world_size: int) -> Layout:
        """Who takes which units of each global batch."""
        rows = self.source.unit_rows
        return Layout(self.recipe.optim.global_batch_size // rows, self.recipe.micro_batch_size // rows, world_size)

    def resume_step(self) -> int:
        """Step of the newest whole checkpoint, 0 without one. Stream and workers both start here."""
        return (committed_steps(self.folder.checkpoints) or [0])[-1]
