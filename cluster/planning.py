"""``clippy cluster plan``: what a recipe needs of a cluster, how fast it runs there, what bounds it, what it costs."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from cluster.verbs import add_json, print_result, verb

if TYPE_CHECKING:
    from cluster.capacity.hardware import Cluster, Hardware
    from cluster.capacity.plan import Plan, Setting
    from pipelines.recipe import Recipe

CALIBRATION_FILE = "calibration.json"


def add_plan_verb(actions: Any) -> None:
    command = verb(
        actions, "plan", _plan, "say what a recipe needs of a cluster, how fast it runs there, what bounds it, its cost"
    )
    command.add_argument("recipe", metavar="RECIPE", help="a recipe's name (see: clippy recipe list) or a YAML file")
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help="recipe fields to set")
    command.add_argument(
        "--gpus", metavar="NxKIND", help="such as 32xH100; without it, the CPU of this machine, for recipes that use it"
    )
    command.add_argument("--cpu-nodes", type=int, default=0, metavar="N", help="machines that only decode (default: 0)")
    command.add_argument(
        "--dataset",
        metavar="DATASET",
        help="cc12m, hqitp, shapes, pairs=N,bytes=N,width=N,height=N, or the URL of an indexed dataset; default: as "
        "the recipe's data are called",
    )
    command.add_argument(
        "--failure-hours",
        type=float,
        metavar="HOURS",
        help="of one GPU between two failures (default: 50,700, as Llama 3 was trained)",
    )
    command.add_argument("--prices", metavar="FILE", help="a file of prices in place of the packaged one")
    command.add_argument(
        "--calibrate", action="store_true", help="measure rates on this machine first, and keep them; takes minutes"
    )
    command.add_argument(
        "--calibration",
        metavar="FILE",
        help=f"measured rates, in place of others (default: {CALIBRATION_FILE} in this folder, if it is there)",
    )
    command.add_argument(
        "--simulate",
        metavar="PICTURE",
        help="also simulate the stream for 8 to 512 GPUs, and runs of 134 million to 10 billion pairs; .svg or .png",
    )
    command.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    add_json(command)


def _plan(options: argparse.Namespace) -> None:
    setting, prices = _setting(options)  # all options are checked before torch is imported
    if options.calibrate:
        setting = _calibrate(options, setting)
    from cluster.capacity.page import as_dict, as_text
    from cluster.capacity.remedies import find_remedy

    plan = _make_plan(setting)
    remedy = find_remedy(plan)
    values, text = as_dict(plan, prices, remedy), as_text(plan, prices, remedy)
    if options.simulate:
        from cluster.capacity.forecast import forecast

        found = forecast(plan, options.seed, options.simulate)
        values["simulation"] = found.as_dict()
        text += f"\n\n{found.as_text()}"
    print_result(values, options.json, text)


def _setting(options: argparse.Namespace) -> tuple[Setting, Any]:
    """What is to be planned, and the prices. Raises ValueError for whatever is wrong with the options."""
    from cluster.capacity.hardware import load_hardware, load_prices
    from pipelines.recipe import load_recipe

    hardware, prices = load_hardware(_calibration(options)), load_prices(options.prices)
    hardware = _with_failures(hardware, options.failure_hours)
    if options.cpu_nodes < 0:
        raise ValueError(f"--cpu-nodes: cannot be negative (got {options.cpu_nodes})")
    gpus = _gpus(options, hardware)
    more = [f"scaling.num_workers={gpus[0]}", "scaling.use_gpu=true"] if gpus else []
    recipe = load_recipe(options.recipe, [*options.overrides, *more])
    _check_simulation(options)
    cluster = _cluster(options, recipe, hardware, gpus)
    from cluster.capacity.pairs import find_pairs

    pairs = find_pairs(options.dataset, recipe)
    from cluster.capacity.plan import Setting  # imports torch: everything else is checked

    return Setting(recipe, pairs, cluster, hardware), prices


def _calibration(options: argparse.Namespace) -> str | None:
    if options.calibration is not None:
        written_first = options.calibrate and not os.path.exists(options.calibration)
        return None if written_first else str(options.calibration)
    return CALIBRATION_FILE if os.path.exists(CALIBRATION_FILE) else None


def _with_failures(hardware: Hardware, hours: float | None) -> Hardware:
    from cluster.capacity.hardware import Figure

    if hours is None:
        return hardware
    if hours <= 0:
        raise ValueError(f"--failure-hours: must be above 0 (got {hours:g})")
    figure = {"gpu_hours_between_failures": Figure(value=hours, source="--failure-hours")}
    return hardware.model_copy(update={"rates": hardware.rates.model_copy(update=figure)})


def _gpus(options: argparse.Namespace, hardware: Hardware) -> tuple[int, str] | None:
    from cluster.capacity.hardware import parse_gpus

    if options.gpus is None and options.cpu_nodes:
        raise ValueError("--cpu-nodes: machines to decode on go with GPUs; name these with --gpus, such as 32xH100")
    return parse_gpus(options.gpus, hardware) if options.gpus is not None else None


def _check_simulation(options: argparse.Namespace) -> None:
    """Raises ValueError where a picture of the simulation could not be drawn in the end."""
    if options.simulate is None:
        return
    from importlib.util import find_spec

    if options.gpus is None:
        raise ValueError("--simulate: is for GPUs; name them with --gpus, such as 32xH100")
    if not options.simulate.endswith((".svg", ".png")):
        raise ValueError(f"--simulate: the picture's name must end in .svg or .png (got {options.simulate!r})")
    if find_spec("matplotlib") is None:
        raise ValueError("--simulate: draws with matplotlib, which is not installed; run: pip install matplotlib")


def _cluster(options: argparse.Namespace, recipe: Recipe, hardware: Hardware, gpus: tuple[int, str] | None) -> Cluster:
    from dataclasses import replace

    from cluster.capacity.hardware import gpu_cluster, this_machine

    cores = recipe.scaling.resources_per_worker.get("CPU", 1.0)
    if gpus is None:
        if recipe.scaling.use_gpu:
            raise ValueError(f"--gpus: {recipe.name} trains on GPUs; say how many of which, such as 32xH100")
        cluster = this_machine(recipe.scaling.max_workers, hardware, worker_cores=cores)
    else:
        precision = recipe.train.precision
        cluster = gpu_cluster(*gpus, hardware, precision=precision, worker_cores=cores, cpu_nodes=options.cpu_nodes)
    return replace(cluster, told_decode_cores=recipe.scaling.decode_cores)


def _calibrate(options: argparse.Namespace, setting: Setting) -> Setting:
    """Measure, keep what was measured, and plan with it."""
    from dataclasses import replace

    from cluster.capacity.calibration import calibrate
    from cluster.capacity.hardware import load_hardware, save_calibration
    from pipelines.console import Console

    console, file = Console(), options.calibration or CALIBRATION_FILE
    save_calibration(file, calibrate(setting.recipe, setting.hardware, console))
    console.line(f"measured rates are in {file}")
    hardware = _with_failures(load_hardware(file), options.failure_hours)
    gpus = _gpus(options, hardware)
    return replace(setting, hardware=hardware, cluster=_cluster(options, setting.recipe, hardware, gpus))


def _make_plan(setting: Setting) -> Plan:
    """The plan, or the sentence that says what does not fit and what would. Raises ValueError."""
    from cluster.capacity.plan import DoesNotFit, make_plan
    from cluster.capacity.remedies import fitting_changes

    try:
        return make_plan(setting)
    except DoesNotFit as error:
        changes = fitting_changes(setting, error)
        remedy = f"set {', or '.join(changes)}" if changes else "no micro-batch fits; use GPUs with more memory"
        raise ValueError(f"{error}; {remedy}") from None
