"""Where a run starts: published weights are looked up once, before anything is written, and then lie in the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clippy.vision import ImageTower
from pipelines.checkpoints import CheckpointError
from pipelines.console import Console
from pipelines.direct import run_direct
from pipelines.prepare import prepare
from pipelines.recipe import load_recipe
from pipelines.session import restore
from pipelines.train import run
from pipelines.worker import check_run_is_here
from tests.pipelines.test_loop import Recorder, train

CPU = torch.device("cpu")


def write_trunk(file: Path, overrides: list[str]) -> dict[str, torch.Tensor]:
    """Weights of the recipe's image tower, as somebody may have published them."""
    torch.manual_seed(11)
    tensors = ImageTower(load_recipe("shapes", overrides).model.image).trunk.state_dict()
    save_file(tensors, file)
    return tensors


def test_published_weights_are_needed_once(overrides: list[str], tmp_path: Path) -> None:
    mine = [*overrides, "scaling.num_workers=1"]
    file = tmp_path / "dino.safetensors"
    published = write_trunk(file, mine)
    mine.append(f"model.image.pretrained={file}")
    job = prepare(load_recipe("shapes", mine), Console())
    file.unlink()  # a node without it, or a hub that is away
    start = restore(job, CPU, 0)
    for name, tensor in published.items():
        assert torch.equal(start.model.image.trunk.state_dict()[name], tensor), name
    assert train(job, start, Recorder(job))
    again = prepare(load_recipe("shapes", mine), Console())
    resumed = restore(again, CPU, 12)
    for name, tensor in start.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_a_run_is_trained_by_one_command_at_a_time(overrides: list[str]) -> None:
    recipe = load_recipe("shapes", [*overrides, "tracking.enabled=false"])
    with prepare(recipe, Console()).folder.held():
        for begin in (run, run_direct):
            with pytest.raises(ValueError, match=r"runs/shapes: another command is training this run; stop that one"):
                begin(recipe, Console())
    with prepare(recipe, Console()).folder.held():
        pass  # the first has let go


def test_a_worker_refuses_a_run_that_lies_on_the_disk_of_another_machine(overrides: list[str], tmp_path: Path) -> None:
    job = prepare(load_recipe("shapes", overrides), Console())
    check_run_is_here(job)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"storage.url: .*/runs/shapes is not there on \S+, where a worker runs"):
        check_run_is_here(job)


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(overrides: list[str], tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"surplus": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"other\.safetensors.*left over: surplus"):
        prepare(load_recipe("shapes", [*overrides, f"model.image.pretrained={file}"]), Console())
    assert not (tmp_path / "runs" / "shapes" / "recipe.yaml").exists()
