"""A training that the cluster can never hold is refused with the numbers; see test_failures for whole clusters."""

from __future__ import annotations

import pytest
import ray

from pipelines.local_ray import check_resources
from pipelines.recipe import load_recipe


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    """Ray, as it would tell of these nodes."""
    whole = {name: sum(node.get(name, 0) for node in nodes) for node in nodes for name in node}
    monkeypatch.setattr(ray, "cluster_resources", lambda: whole)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setattr(ray._private.state.state, "get_max_resources_from_cluster_config", lambda: None)


@pytest.mark.parametrize("wanted", ["{CPU: 6}", "{CPU: 2, disk: 1}"])
def test_a_worker_that_no_node_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    cluster(monkeypatch, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 1.0, "disk": 9.0}, {"CPU": 4.0})
    workers = ["scaling.num_workers=2", f"scaling.resources_per_worker={wanted}", "scaling.decode_cores=1"]
    with pytest.raises(ValueError, match=r"resources_per_worker: a worker needs .* on one node, .* \(.*: 4 CPU"):
        check_resources(load_recipe("shapes", workers))


def test_workers_that_fit_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0})
    workers = ["scaling.num_workers=2", "scaling.resources_per_worker={CPU: 4}", "scaling.use_gpu=true"]
    check_resources(load_recipe("shapes", [*workers, "scaling.decode_cores=2"]))
