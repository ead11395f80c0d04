"""What the stream of pairs costs: reads, decode cores, network and object store, and how fast each lets it run."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd, inf

from clippy.images import jpeg_divisor
from cluster.capacity.hardware import Cluster, Rates
from cluster.capacity.pairs import Pairs
from pipelines.budget import StreamBudget, plan_budget
from pipelines.plan import unit_rows
from pipelines.recipe import Recipe
from pipelines.samples import Decoding, Source

_RANGE_BYTES = 32 * 2**20
"""Arrow asks for no more at once."""
_OPEN_SHARDS, _SHARD_BYTES = 64, 256 * 2**20
"""A decoder remembers the footers of so many shards; an import writes shards of about this size."""
_DISK_BYTES_PER_SECOND = 10**9
"""Of a disk in the machine, or of its cache; what is read there hardly counts."""
_RAY_MOST_STORE_BYTES = 200 * 10**9
"""Of one machine, by Ray's default."""


@dataclass(frozen=True)
class UnitCost:
    """One unit of the plan, which one decoder reads and then decodes."""

    rows: int
    decoded_bytes: int
    groups: float
    """Row groups that it lies in, on average."""
    read_bytes: float
    """Whole row groups are read, whatever part of them the unit is."""
    requests: float
    read_seconds: float
    decode_seconds: float
    """On a core of its own, with what Ray Data takes for the unit."""
    read_amplification: float
    """Bytes read for each byte used."""


@dataclass(frozen=True)
class Stage:
    """A part of the pipeline, and how many images a second it lets through."""

    name: str
    images_per_second: float
    because: str


def unit_cost(recipe: Recipe, pairs: Pairs, cluster: Cluster, rates: Rates) -> UnitCost:
    """The recipe's unit of this dataset, read from object storage or from the disk of this machine.

    Raises ValueError when the stream does not fit the object store.
    """
    image, text = recipe.model.image, recipe.model.text
    rows = unit_rows(recipe.micro_batch_size, 3 * image.image_size**2 + 4 * text.max_tokens)
    groups = (rows + pairs.group_rows - gcd(rows, pairs.group_rows)) / pairs.group_rows
    group_bytes = pairs.group_rows * pairs.bytes
    footer = 1 if pairs.pairs * pairs.bytes > _OPEN_SHARDS * _SHARD_BYTES else 0
    requests = groups * (ceil(group_bytes / _RANGE_BYTES) + footer)
    read_seconds = requests * rates.request_seconds.value + groups * group_bytes / (rates.request_mb_per_s.value * 1e6)
    from_disk = cluster.shares_cores and "://" not in recipe.data.urls
    pixels = rows * 3 * image.image_size**2
    units_per_block = object_store(recipe, cluster, rates, rows).units_per_block
    stream = rates.block_seconds.value / units_per_block + pixels * rates.block_ns_per_byte.value * 1e-9
    return UnitCost(
        rows=rows,
        decoded_bytes=pixels + rows * (4 * text.max_tokens + 64),
        groups=groups,
        read_bytes=groups * group_bytes,
        requests=requests,
        read_seconds=groups * group_bytes / _DISK_BYTES_PER_SECOND if from_disk else read_seconds,
        decode_seconds=rows * decode_seconds(recipe, pairs, rates) + stream,
        read_amplification=groups * pairs.group_rows / rows,
    )


def decode_seconds(recipe: Recipe, pairs: Pairs, rates: Rates) -> float:
    """Of one picture and its caption, on a core that does nothing else."""
    size = recipe.model.image.image_size
    pixels, resizes = decoded_pixels(pairs.width, pairs.height, size)
    nanoseconds = (
        rates.decode_ns_per_byte.value * pairs.bytes
        + rates.decode_ns_per_pixel.value * pixels
        + rates.decode_ns_per_output_pixel.value * size**2
    )
    return nanoseconds * 1e-9 + rates.decode_seconds_per_row.value + resizes * rates.decode_seconds_per_resize.value


def decoded_pixels(width: float, height: float, size: int) -> tuple[float, bool]:
    """Pixels of a JPEG as it is decoded for ``size``, and whether it has to be resized then."""
    divisor = jpeg_divisor(min(width, height), size)
    return width * height / divisor**2, min(width, height) / divisor != size


def rows_per_core(unit: UnitCost, core_share: float) -> tuple[float, float]:
    """Images a second of one hardware thread: as decoding alone would let it, and as reading lets it.

    A decoder has two threads, of which one reads while the other decodes.
    """
    decode = unit.decode_seconds / core_share
    return unit.rows / decode, unit.rows / ((unit.read_seconds + decode) / 2)


def stream_stages(recipe: Recipe, pairs: Pairs, cluster: Cluster, rates: Rates) -> list[Stage]:
    """The stages of the stream and what each lets through."""
    unit, cores = unit_cost(recipe, pairs, cluster, rates), cluster.decode_cores
    share = 1.0 if cluster.shares_cores else rates.thread_share.value
    decoding, reading = (cores * rate for rate in rows_per_core(unit, share))
    requests = unit.requests / unit.rows
    served = pairs.prefixes * rates.requests_per_second.value
    stages = [
        Stage("decoding", decoding, f"{cores} cores, {decoding / cores:.0f} images/s each"),
        Stage("reading", reading, f"{unit.read_seconds:.2f} s for a unit of {unit.rows} rows, two at a time on a core"),
        Stage("network", _network_rate(unit, pairs, cluster), "pictures from storage, decoded pixels between machines"),
    ]
    if not cluster.shares_cores:
        because = f"{requests:.3f} requests an image, {served:,.0f} a second of {pairs.prefixes} prefix"
        because += "es" if pairs.prefixes > 1 else ""
        stages.append(Stage("storage requests", served / requests, because))
    return stages


def _network_rate(unit: UnitCost, pairs: Pairs, cluster: Cluster) -> float:
    """Images a second that the machines' links to storage and to each other carry.

    Every decoder serves every worker in turn, so what is decoded on one machine mostly leaves it.
    """
    if cluster.shares_cores:
        return inf
    read, decoded = unit.read_bytes / unit.rows, unit.decoded_bytes / unit.rows
    beside = cluster.spare_cores / (cluster.spare_cores + cluster.cpu_nodes * cluster.cpu_node.cores)
    on_gpu_node = beside / cluster.nodes
    on_cpu_node = (1 - beside) / cluster.cpu_nodes if cluster.cpu_nodes else 0.0
    gpu_link, cpu_link = cluster.node.storage_gbit * 1e9 / 8, cluster.cpu_node.storage_gbit * 1e9 / 8
    loads = [
        (gpu_link, on_gpu_node * read + (1 / cluster.nodes) * (1 - on_gpu_node) * decoded),
        (gpu_link, on_gpu_node * (1 - 1 / cluster.nodes) * decoded),
        (cpu_link, on_cpu_node * read),
        (cpu_link, on_cpu_node * decoded),
    ]
    return min((link / load for link, load in loads if load), default=inf)


def object_store(recipe: Recipe, cluster: Cluster, rates: Rates, rows: int) -> StreamBudget:
    """The stream's part of Ray's object store, as a run works it out. Raises ValueError when it does not fit."""
    machines = [(cluster.nodes, cluster.node), (cluster.cpu_nodes, cluster.cpu_node)]
    store = sum(count * machine_store_bytes(node.memory_gib, rates) for count, node in machines)
    source = Source((), recipe.seed, rows)
    decoding = Decoding(recipe.model.image.image_size, "", recipe.model.text.max_tokens)
    return plan_budget(recipe, source, decoding, cluster.decode_cores, store)


def machine_store_bytes(memory_gib: float, rates: Rates) -> int:
    """Ray's object store on a machine of so much memory, by its default."""
    return int(min(_RAY_MOST_STORE_BYTES, rates.object_store_share.value * memory_gib * 2**30))
