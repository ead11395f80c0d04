"""What the driver makes of what workers say."""

from __future__ import annotations

from pipelines.console import Console
from pipelines.listener import Listener
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.summary import Heard


def test_a_run_that_fails_says_what_failed_first(overrides: list[str]) -> None:
    """A worker that is gone takes the others with it, who have only that to tell."""
    job, heard = prepare(load_recipe("shapes", overrides), Console()), Heard()
    listener = Listener(job, Console(), None, heard)
    starting = {"starting": 2}
    gone, failures = "RuntimeError: connection closed by peer", ["OutOfMemoryError: 3 GiB", "OutOfMemoryError: 4 GiB"]
    for failure in failures:
        listener.listen([starting, {"failure": failure, "final": False}, {"failure": gone, "final": False}])
    assert heard.cause(otherwise="the controller's words") == "OutOfMemoryError: 4 GiB"
    listener.listen([starting])
    assert heard.cause(otherwise="the controller's words") == "the controller's words"
