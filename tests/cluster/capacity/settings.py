"""Settings that the tests of plans share."""

from __future__ import annotations

from cluster.capacity.hardware import gpu_cluster, load_hardware, parse_gpus
from cluster.capacity.pairs import find_pairs
from cluster.capacity.plan import Setting
from pipelines.recipe import load_recipe

HARDWARE = load_hardware()
TINY = (
    "model.image.image_size=64",
    "model.image.arguments={patch_size: 16, embed_dim: 64, depth: 2, num_heads: 2}",
    "model.text.arguments={d_model: 64, d_kv: 32, num_heads: 2, d_ff: 128, num_layers: 1}",
    "model.text.tokenizer=bytes",
    "optim.global_batch_size=1024",
)


def gpu_setting(gpus: str, *overrides: str, dataset: str = "hqitp", cpu_nodes: int = 0) -> Setting:
    """A small model on many GPUs, which decoding, reading or the network soon holds up."""
    count, name = parse_gpus(gpus, HARDWARE)
    recipe = load_recipe("shapes", [*TINY, f"scaling.num_workers={count}", "scaling.use_gpu=true", *overrides])
    cluster = gpu_cluster(count, name, HARDWARE, precision=recipe.train.precision, worker_cores=1, cpu_nodes=cpu_nodes)
    return Setting(recipe, find_pairs(dataset, recipe), cluster, HARDWARE)
