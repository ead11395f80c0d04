"""What the stream costs: units and row groups, decoding, requests, and who is slowest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clippy.images import jpeg_divisor
from cluster.capacity.pairs import find_pairs
from cluster.capacity.stream_need import decode_seconds, rows_per_core, stream_stages, unit_cost
from pipelines.console import Console
from pipelines.index import index_dataset
from pipelines.prepare import find_datasets, make_source
from pipelines.recipe import load_recipe
from pipelines.sections import DatasetConfig
from tests.cluster.capacity.settings import HARDWARE, gpu_setting

RATES = HARDWARE.rates


@given(unit=st.integers(1, 300), group=st.integers(1, 300))
def test_row_groups_of_a_unit_are_those_that_units_laid_end_to_end_touch(unit: int, group: int) -> None:
    setting = gpu_setting("8xH100", f"optim.global_batch_size={8 * unit}", dataset=f"hqitp,group_rows={group}")
    cost = unit_cost(setting.recipe, setting.pairs, setting.cluster, RATES)
    assert cost.rows == unit
    touched = [(k * unit // group, ((k + 1) * unit - 1) // group) for k in range(group)]  # then it begins again
    groups = sum(last - first + 1 for first, last in touched) / group
    assert cost.groups == pytest.approx(groups)
    assert cost.read_amplification == pytest.approx(groups * group / unit)


def test_a_unit_is_the_one_that_a_run_makes(shapes: Path) -> None:
    recipe = load_recipe("shapes", [f"data.url={shapes}/train", "model.image.image_size=448"])
    source = make_source(recipe, find_datasets(recipe, Console()))
    setting = gpu_setting("2xH100", "model.image.image_size=448", "optim.global_batch_size=128")
    assert unit_cost(setting.recipe, setting.pairs, setting.cluster, RATES).rows == source.unit_rows


def test_decoding_worked_out_by_hand() -> None:
    """1024 x 768 is halved for 224 pixels: 10 ns a byte, 2.5 ns a decoded pixel, 1.1 ns an output pixel, 50 us."""
    setting = gpu_setting("8xH100", "model.image.image_size=224", dataset="pairs=1e6,bytes=1e5,width=1024,height=768")
    assert jpeg_divisor(768, 224) == 2
    nanoseconds = 10 * 1e5 + 2.5 * 512 * 384 + 1.1 * 224 * 224 + 5e4
    assert decode_seconds(setting.recipe, setting.pairs, RATES) == pytest.approx(nanoseconds * 1e-9)


def test_a_decoder_reads_while_it_decodes() -> None:
    setting = gpu_setting("8xH100")
    cost = unit_cost(setting.recipe, setting.pairs, setting.cluster, RATES)
    slow = replace(cost, rows=100, read_seconds=3.0, decode_seconds=0.5)
    assert rows_per_core(slow, 0.5) == (100, 50)  # one second to decode at half speed; four for two units
    fast = replace(slow, read_seconds=0.2)
    decode, read = rows_per_core(fast, 0.5)
    assert decode == 100 < read


def test_stages_follow_from_what_there_is() -> None:
    few, many = gpu_setting("8xH100"), gpu_setting("8xH100", cpu_nodes=4)
    rates = [
        {s.name: s.images_per_second for s in stream_stages(x.recipe, x.pairs, x.cluster, RATES)} for x in (few, many)
    ]
    assert rates[1]["decoding"] / rates[0]["decoding"] == pytest.approx((184 + 256) / 184)
    assert rates[0]["storage requests"] == pytest.approx(5500 * 128 / 2)  # a footer and a row group for 128 rows
    prefixes = gpu_setting("8xH100", dataset="hqitp,prefixes=3")
    spread = stream_stages(prefixes.recipe, prefixes.pairs, prefixes.cluster, RATES)[-1]
    assert spread.images_per_second == pytest.approx(3 * rates[0]["storage requests"])
    link, row = 100e9 / 8, unit_cost(few.recipe, few.pairs, few.cluster, RATES)
    assert rates[0]["network"] == pytest.approx(link / (row.read_bytes / row.rows))  # nothing leaves the one machine


def test_an_indexed_dataset_says_what_it_is(shapes: Path) -> None:
    index_dataset(DatasetConfig(url=f"{shapes}/train"))
    pairs = find_pairs(f"{shapes}/train", load_recipe("shapes"))
    assert (pairs.pairs, pairs.width, pairs.height, pairs.group_rows) == (200, 64, 64, 16)
    assert pairs.bytes == pytest.approx(find_pairs("shapes", load_recipe("shapes")).bytes, rel=0.05)
    assert 5 < pairs.tokens < 25


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hqipt", "'hqipt' is none of cc12m, hqitp, shapes; did you mean 'hqitp'?"),
        ("pairs=1e6", "--dataset: bytes: required, but not given; width: required"),
        ("hqitp,bites=3", "bites: no such field; did you mean 'bytes'?"),
        ("hqitp,bytes=few", "'bytes=few' must have the form name=number"),
        ("pairs=0,bytes=1,width=1,height=1", "pairs: must be greater than 0"),
        ("s3x/y.z", "has no manifest; run: clippy data index s3x/y.z"),
    ],
)
def test_a_dataset_that_is_not_known_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="--dataset") as caught:
        find_pairs(text, load_recipe("shapes"))
    assert sentence in str(caught.value)
    with pytest.raises(ValueError, match="--dataset: nothing is known of data/mine; name one of cc12m"):
        find_pairs(None, load_recipe("shapes", ["data.url=data/mine"]))
