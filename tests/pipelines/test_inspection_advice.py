"""Advice on a dataset: it comes when it should, at the figure where it should, and not otherwise."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.cli import parse
from cluster.data import import_config
from pipelines.index import index_dataset
from pipelines.inspection.advice import advise, import_command
from pipelines.inspection.collect import Inspection
from pipelines.inspection.data_card import write_data_card
from pipelines.inspection.distribution import distribution
from pipelines.inspection.layout import Column
from pipelines.inspection.text import as_text
from pipelines.sections import DatasetConfig
from tests.pipelines.test_inspect_data import advised, contents, inspect, picture, rows, write


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """A dataset with nothing to change."""
    folder = tmp_path_factory.mktemp("fit")
    write(folder, "a.parquet", rows(100), row_group_rows=32)
    return inspect(folder, index=True)


def test_nothing_to_change_is_said(fit: Inspection) -> None:
    assert advised(fit) == []
    assert fit.as_dict()["fit"] is True
    assert fit.layout.manifest == "current"
    assert "fit to train on" in as_text(fit)


def test_the_command_to_import_takes_the_same_columns_from_the_same_storage() -> None:
    options = {"endpoint_url": "http://host:9000", "anon": True}
    columns = {"image_column": "img", "caption_column": "alt text", "key_column": "uid"}
    data = DatasetConfig(url="s3://bucket/my pairs", storage_options=options, **columns)
    arguments = shlex.split(import_command(data, "--row-group-rows 256"))[1:]
    config = import_config(parse(arguments))
    assert config.source == data.url
    assert config.storage_options == options
    assert {name: getattr(config, name) for name in columns} == columns


LAYOUT_RULES: list[tuple[str, bool, dict[str, object], dict[str, object]]] = [
    # name, whether it is a problem, facts just beyond the rule, facts just within it
    (
        "row_groups_too_large",
        False,
        {"row_group_rows": distribution([32, 1025])},
        {"row_group_rows": distribution([32, 1024])},
    ),
    (
        "row_groups_too_large",
        False,
        {"row_group_bytes": distribution([1, (64 << 20) + 1])},
        {"row_group_bytes": distribution([1, 64 << 20])},
    ),
    (
        "int32_binary",
        True,
        {
            "largest_image_column_bytes": (1 << 30) + 1,
            "schema": (Column("jpg", "binary", "image"), Column("key", "string", "key")),
        },
        {
            "largest_image_column_bytes": (1 << 30) + 1,
            "schema": (Column("jpg", "large_binary", "image"), Column("key", "string", "key")),
        },
    ),
    (
        "tiny_shards",
        False,
        {"shards": 16, "shard_bytes": distribution([(8 << 20) - 1])},
        {"shards": 16, "shard_bytes": distribution([8 << 20])},
    ),
    (
        "tiny_row_groups",
        False,
        {"row_groups": 64, "row_group_rows": distribution([15])},
        {"row_groups": 64, "row_group_rows": distribution([16])},
    ),
    ("few_usable_rows", False, {"rows": 126}, {"rows": 125}),
    ("no_usable_rows", True, {"usable_rows": 0}, {}),
    ("manifest_missing", False, {"manifest": "missing"}, {}),
    ("manifest_stale", True, {"manifest": "stale"}, {}),
    ("manifest_unreadable", True, {"manifest": "unreadable"}, {}),
    ("no_key_column", False, {"schema": (Column("jpg", "large_binary", "image"),)}, {}),
]
SAMPLE_RULES: list[tuple[str, bool, dict[str, object], dict[str, object]]] = [
    ("images_too_large", False, {"short_side": distribution([65])}, {"short_side": distribution([64])}),
    ("images_too_small", False, {"smaller_than_image_size": 26}, {"smaller_than_image_size": 25}),
    (
        "images_uncompressed",
        False,
        {"formats": {"BMP": 100}, "median_bytes_per_pixel": 1.6},
        {"formats": {"BMP": 100}, "median_bytes_per_pixel": 1.5},
    ),
    ("repeated_images", False, {"repeated_images": 3}, {"repeated_images": 2}),
    ("repeated_captions", False, {"repeated_captions": 11}, {"repeated_captions": 10}),
    ("repeated_keys", False, {"repeated_keys": 1}, {}),
    (
        "decode_failures",
        True,
        {"causes": {"valid": 98, "null_image": 2}},
        {"causes": {"valid": 99, "null_image": 1}},
    ),
]


@pytest.mark.parametrize(
    ("part", "name", "problem", "beyond", "within"),
    [("layout", *rule) for rule in LAYOUT_RULES] + [("sample", *rule) for rule in SAMPLE_RULES],
)
def test_each_rule_holds_exactly(
    fit: Inspection, part: str, name: str, problem: bool, beyond: dict[str, object], within: dict[str, object]
) -> None:
    def advice(facts: dict[str, object]) -> list[tuple[str, bool]]:
        parts = {"layout": fit.layout, "sample": fit.sample}
        parts[part] = dataclasses.replace(parts[part], **facts)  # type: ignore[type-var]
        found = advise(DatasetConfig(url="s3://b/my data"), parts["layout"], parts["sample"])  # type: ignore[arg-type]
        assert all(
            one.sentence.endswith(".") and "'s3://b/my data'" in (one.command or "'s3://b/my data'") for one in found
        )
        return [(one.name, one.problem) for one in found]

    assert advice(beyond) == [(name, problem)]
    assert advice(within) == []


def test_advice_on_data_that_is_cut_badly(tmp_path: Path) -> None:
    for shard in range(16):
        write(tmp_path / "tiny", f"{shard:02d}.parquet", rows(3, 3 * shard))
    assert advised(inspect(tmp_path / "tiny", index=True)) == ["tiny_shards"]
    base = picture()
    write(
        tmp_path / "huge", "a.parquet", rows(1025, jpg=[base + bytes([i // 256, i % 256]) for i in range(1025)]), 2000
    )
    assert advised(inspect(tmp_path / "huge", index=True)) == ["row_groups_too_large"]
    write(tmp_path / "large", "a.parquet", rows(4, jpg=[picture(1000, 800, seed) for seed in range(4)]))
    large = inspect(tmp_path / "large", image_size=224, index=True)
    assert advised(large) == ["images_too_large"]
    assert large.advice[0].command == f"clippy data import {tmp_path / 'large'} DEST --max-short-side 256"
    assert advised(inspect(tmp_path / "large", image_size=448)) == []
    assert advised(inspect(tmp_path / "large", image_size=1024)) == ["images_too_small"]
    unnamed = rows(3)
    del unnamed["key"]
    write(tmp_path / "unnamed", "a.parquet", unnamed)
    assert advised(inspect(tmp_path / "unnamed", index=True)) == ["no_key_column"]


def test_manifest_of_other_data_is_noticed_and_not_used(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows(10))
    index_dataset(DatasetConfig(url=str(tmp_path)))
    write(tmp_path, "b.parquet", rows(10, 10))
    before = contents(tmp_path)
    stale = inspect(tmp_path)
    assert (advised(stale), stale.layout.rows) == (["manifest_stale"], 20)
    assert contents(tmp_path) == before
    (tmp_path / "_manifest.parquet").write_bytes(b"PAR1")
    unreadable = inspect(tmp_path)
    assert (advised(unreadable), unreadable.layout.rows) == (["manifest_unreadable"], 20)
    assert f"clippy data index {tmp_path}" == unreadable.advice[0].command


def test_dataset_without_a_usable_row_is_described(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows(4, status=["failed_to_download"] * 4))
    found = inspect(tmp_path, index=True)
    assert advised(found) == ["no_usable_rows"]
    assert "not fit" in as_text(found)
    json.dumps(found.as_dict(), allow_nan=False)
    write_data_card(found, str(tmp_path / "card.html"))


def test_what_import_left_is_shown(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", rows(3))
    (tmp_path / "_import.json").write_text(json.dumps({"source": "s3://raw", "rows_written": 3}))
    rejects = {"key": ["a", "b", None], "cause": ["not_an_image", "not_an_image", "null_image"]}
    pq.write_table(pa.table({**rejects, "source": ["x.tar"] * 3, "message": ["m"] * 3}), tmp_path / "_rejects.parquet")
    found = inspect(tmp_path, index=True)
    assert found.layout.rows == 3
    assert found.imported is not None
    assert found.imported["rejects"] == {"not_an_image": 2, "null_image": 1}
    assert found.imported["summary"]["rows_written"] == 3
    assert "refused: not_an_image" in as_text(found)
