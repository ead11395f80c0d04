"""Who follows a run from outside, such as a search that may end it early."""

from __future__ import annotations

from typing import Any


class Follower:
    """Hears how a run goes, in the thread that runs it, and may ask it to stop. This one minds nothing."""

    mlflow_parent: str | None = None
    """MLflow run that the run is one of the children of."""

    def started(self, placement_group: Any) -> None:
        """Workers are up, in this placement group."""

    def trained(self, records: list[dict[str, Any]]) -> None:
        """A few steps are done: a record each."""

    def validated(self, step: int, numbers: dict[str, float]) -> None:
        """The checkpoint of this step came to these numbers."""

    def wants_stop(self) -> bool:
        """Whether the run should save a checkpoint and end; asked several times a second."""
        return False
