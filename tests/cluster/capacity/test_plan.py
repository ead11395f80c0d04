"""Plans: step time, memory, what bounds them, and changes that do remove the bound, and no smaller ones."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clippy.model import CLIPpy
from clippy.tokens import build_tokenizer
from cluster.capacity.failures import best_interval
from cluster.capacity.hardware import Prices, load_prices, this_machine
from cluster.capacity.page import as_dict, as_text
from cluster.capacity.plan import DoesNotFit, Plan, Setting, cost, make_plan
from cluster.capacity.remedies import find_remedy, fitting_changes
from cluster.capacity.step import all_reduce_seconds, gather_seconds
from pipelines.optim import build_optimizer
from pipelines.recipe import load_recipe
from pipelines.state import TrainState, take_snapshot, write_snapshot
from tests.cluster.capacity.settings import HARDWARE, TINY, gpu_setting

SLOW = "model.image.arguments={patch_size: 16, embed_dim: 256, depth: 4, num_heads: 4}"


def test_a_ring_worked_out_by_hand() -> None:
    """One machine: 450 GB/s a GPU, of which 0.8 are had; two: its network cards, 400 GB/s for all of it."""
    one, two = gpu_setting("8xH100").cluster, gpu_setting("16xH100").cluster
    rates = HARDWARE.rates
    assert gather_seconds(10**9, one, rates) == pytest.approx(7 / 8 / 360 + 3 * 20e-6)
    assert all_reduce_seconds(10**9, two, rates) == pytest.approx(2 * (15 / 16 / 320 + 4 * 20e-6))
    assert gather_seconds(10**9, replace(one, workers=1), rates) == 0


def test_the_time_of_a_step_is_that_of_its_parts() -> None:
    plan = make_plan(gpu_setting("8xH100", SLOW, "model.image.image_size=224"))
    device, passes = plan.setting.cluster.device, plan.step.passes
    assert plan.seconds.forward == passes.forward.seconds(device)
    assert plan.seconds.recomputed == 0
    products = sum(o.flops * n for o, n in passes.backward.operations.items()) / device.matrix_flops["float32"]
    assert plan.seconds.backward > products
    assert plan.seconds.total == pytest.approx(sum(vars(plan.seconds).values()))
    assert 0 < plan.flops_share < 0.7
    exposed = all_reduce_seconds(4 * passes.trained, plan.setting.cluster, HARDWARE.rates) - plan.seconds.backward
    assert plan.seconds.gradients >= max(0, exposed)


def test_micro_batches_save_memory_and_cost_a_forward_pass() -> None:
    whole = make_plan(gpu_setting("8xH100"))
    parts = make_plan(gpu_setting("8xH100", "train.micro_batch_size=32"))
    assert (whole.step.micro_batches, parts.step.micro_batches) == (1, 4)
    assert parts.memory.activations < whole.memory.activations
    assert parts.seconds.recomputed == parts.seconds.forward > 0
    assert parts.flops == pytest.approx(whole.flops, rel=0.02)  # what is computed twice is not counted twice


def test_a_checkpoint_weighs_what_its_files_weigh(tmp_path: Path) -> None:
    plan = make_plan(gpu_setting("8xH100"))
    recipe = plan.setting.recipe
    model = CLIPpy(recipe.model, build_tokenizer(recipe.model.text))
    state = TrainState(model, build_optimizer(model, recipe.optim))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    files = write_snapshot(take_snapshot(state, recipe, "digest"), tmp_path)
    written = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
    assert plan.checkpoints.size_bytes == pytest.approx(written, rel=0.02)  # but for the headers


def test_the_best_time_between_checkpoints_costs_least() -> None:
    """Young's is the square root of 2 C M; Daly's is near it, and above all cheapest where C is small."""
    cost_seconds, between = 10.0, 100_000.0
    best = best_interval(cost_seconds, between)
    assert best == pytest.approx((2 * cost_seconds * between) ** 0.5, rel=0.01)

    def overhead(interval: float) -> float:
        return cost_seconds / interval + interval / 2 / between

    assert overhead(best) < overhead(1.2 * best)
    assert overhead(best) < overhead(best / 1.2)
    assert best_interval(300.0, 100.0) == 100.0


def test_fewer_failures_cost_less() -> None:
    plan = make_plan(gpu_setting("8xH100"))
    rates = HARDWARE.rates.model_copy(update={"gpu_hours_between_failures": HARDWARE.rates.restart_seconds})
    often = make_plan(replace(plan.setting, hardware=HARDWARE.model_copy(update={"rates": rates})))
    assert often.checkpoints.hours_between_failures == pytest.approx(300 / 8)
    assert often.checkpoints.overhead > plan.checkpoints.overhead
    assert often.hours > plan.hours
    assert often.checkpoints.best_steps < plan.checkpoints.best_steps
    assert often.checkpoints.best_overhead <= often.checkpoints.overhead


def bounded(setting: Setting, bound: str) -> Plan:
    told = replace(setting.cluster, told_decode_cores=setting.recipe.scaling.decode_cores)
    plan = make_plan(replace(setting, cluster=told))
    assert plan.bound.name == bound
    return plan


def decoding(cpu_nodes: int = 0) -> Setting:
    options = ("model.image.image_size=128", "optim.global_batch_size=1024")
    dataset = "hqitp,bytes=2.4e5,width=2300,height=1720,group_rows=128"
    return gpu_setting("8xA100-40", *options, dataset=dataset, cpu_nodes=cpu_nodes)


def test_decode_cores_that_lack_are_found_and_no_fewer_would_do() -> None:
    plan = bounded(decoding(), "decoding")
    remedy = find_remedy(plan)
    assert remedy.plan is not None
    nodes = remedy.plan.setting.cluster.cpu_nodes
    assert f"(--cpu-nodes {nodes}, m7i.16xlarge)" in remedy.text
    assert remedy.plan.bound.name not in ("decoding", "reading")
    assert make_plan(decoding(nodes - 1)).bound.name in ("decoding", "reading")
    lacking = int(re.search(r"\+(\d+) decode cores", remedy.text)[1])  # type: ignore[index]
    assert 64 * (nodes - 1) < lacking <= 64 * nodes


def test_a_recipe_that_holds_decoding_back_is_told_its_field() -> None:
    setting = gpu_setting("8xT4", SLOW, "model.image.image_size=224", dataset="hqitp,group_rows=128")
    plan = make_plan(replace(setting, cluster=replace(setting.cluster, told_decode_cores=4)))
    assert plan.bound.name in ("decoding", "reading")
    remedy = find_remedy(plan)
    assert re.fullmatch(r"\+\d+ decode cores \(scaling\.decode_cores=\d+\)", remedy.change)
    assert remedy.plan is not None
    assert remedy.plan.images_per_second > plan.images_per_second


def test_row_groups_larger_than_a_unit_are_named() -> None:
    plan = bounded(gpu_setting("8xT4", SLOW, "model.image.image_size=224", dataset="hqitp,group_rows=8192"), "reading")
    assert plan.unit.read_amplification == 64
    remedy = find_remedy(plan)
    assert "row groups of 128 rows (clippy data import --row-group-rows 128)" in remedy.text
    assert remedy.plan is not None
    assert remedy.plan.bound.name != "reading"


def test_requests_are_spread_over_as_many_prefixes_as_it_takes() -> None:
    setting = gpu_setting("64xH100", "model.image.image_size=16", dataset="hqitp,bytes=100,width=16,height=16")
    plan = bounded(setting, "storage requests")
    remedy = find_remedy(plan)
    assert remedy.plan is not None
    assert remedy.plan.bound.name != "storage requests"
    fewer = remedy.plan.setting.pairs.prefixes - 1
    pairs = setting.pairs.model_copy(update={"prefixes": fewer})
    assert make_plan(replace(setting, pairs=pairs)).bound.name == "storage requests"


def test_workers_are_made_faster_by_the_recipe_first_and_by_their_number_then() -> None:
    options = (SLOW, "model.image.image_size=224")
    slow = bounded(gpu_setting("8xL4", *options, "train.activation_checkpointing=true"), "workers")
    assert find_remedy(slow).change == "train.activation_checkpointing=false"
    parts = bounded(
        gpu_setting("8xT4", *options, "train.micro_batch_size=32", dataset="hqitp,group_rows=32"), "workers"
    )
    assert find_remedy(parts).change == "train.micro_batch_size=128"
    plain = bounded(gpu_setting("8xT4", *options), "workers")
    more = find_remedy(plain)
    assert "the GPUs are the limit, as they should be; --gpus" in more.text
    assert more.plan is not None
    assert more.plan.images_per_second > 1.5 * plain.images_per_second


def test_what_does_not_fit_is_told_what_would() -> None:
    setting = gpu_setting("8xT4", SLOW, "model.image.image_size=448", "optim.global_batch_size=8192")
    with pytest.raises(
        DoesNotFit, match=r"1024 pairs at once need \d+\.\d GiB on each T4, which has 15\.0 GiB"
    ) as caught:
        make_plan(setting)
    changes = fitting_changes(setting, caught.value)
    rows = int(changes[0].partition("=")[2].partition(" ")[0])
    assert changes[0].startswith("train.micro_batch_size=")
    assert make_plan(setting.with_recipe(f"train.micro_batch_size={rows}")).memory.total <= 15 * 2**30
    with pytest.raises(DoesNotFit):
        make_plan(setting.with_recipe(f"train.micro_batch_size={2 * rows}"))


def test_money_is_machines_times_hours_and_requests() -> None:
    plan, prices = make_plan(decoding(cpu_nodes=2)), load_prices()
    spent = cost(plan, prices)
    assert spent.gpu_nodes == pytest.approx(plan.hours * prices.node_hour["p4d.24xlarge"])
    assert spent.cpu_nodes == pytest.approx(2 * plan.hours * prices.node_hour["m7i.16xlarge"])
    assert spent.requests == pytest.approx(plan.hours * 3600 * plan.requests_per_second / 1000 * 0.0004)
    mine = Prices(currency="EUR", source="ours", node_hour={}, storage_gib_month=0, get_requests_1000=0)
    unknown = cost(plan, mine)
    assert (unknown.run, unknown.unpriced) == (None, ("p4d.24xlarge", "m7i.16xlarge"))
    assert "no price for p4d.24xlarge, m7i.16xlarge" in as_text(plan, mine, find_remedy(plan))


def test_the_page_and_its_json_say_the_same_and_give_sources() -> None:
    plan, prices = make_plan(gpu_setting("8xH100")), load_prices()
    remedy = find_remedy(plan)
    page, values = as_text(plan, prices, remedy), as_dict(plan, prices, remedy)
    assert f"{values['images_per_second']:,.0f} images/s" in page
    assert f"{values['parameters']:,}" in page
    assert values["memory"]["total"] == sum(v for k, v in values["memory"].items() if k not in ("total", "device"))
    assert values["bound"]["name"] == min((v, k) for k, v in values["stages"].items() if v is not None)[1]
    for figure in values["rates"].values():
        assert " ".join(figure["source"].split())[:40] in " ".join(page.split())
    assert "cpu_matrix_gflops" not in values["rates"]


def test_on_the_cpu_of_one_machine_all_share_its_cores() -> None:
    recipe = load_recipe("shapes", [*TINY, "optim.global_batch_size=128"])
    pairs = gpu_setting("8xH100", dataset="shapes").pairs
    two, eight = (
        make_plan(Setting(recipe, pairs, this_machine(2, HARDWARE, worker_cores=1, cores=cores), HARDWARE))
        for cores in (2, 8)
    )
    assert two.bound.name == "cores of this machine"
    work = 2 * two.seconds.total + 128 / two.unit.rows * two.unit.decode_seconds + HARDWARE.rates.cpu_step_seconds.value
    assert two.images_per_second == pytest.approx(128 * 2 / work)
    assert eight.images_per_second > 1.5 * two.images_per_second
    assert "a machine of" in find_remedy(two).text
    assert two.checkpoints.hours_between_failures == float("inf")
