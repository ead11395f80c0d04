"""Reading and decoding one unit: the plan's rows, with bad ones kept in place and their cause named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clippy.architecture import TextConfig
from clippy.tokens import build_tokenizer
from pipelines.columns import DataError
from pipelines.index import index_dataset
from pipelines.recipe import DatasetConfig
from pipelines.samples import CAUSES, Dataset, Decoding, Source, decode_unit, read_unit

DECODING = Decoding(16, build_tokenizer(TextConfig(tokenizer="bytes", max_tokens=12)).to_json(), 12)


def jpeg(shade: int, side: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (shade, shade, shade)).save(stream, "JPEG")
    return stream.getvalue()


def source(folder: Path, unit_rows: int = 4, **columns: object) -> Source:
    pq.write_table(pa.table(columns), folder / "00000.parquet", row_group_size=5)
    data = DatasetConfig(url=str(folder))
    return Source((Dataset(data, index_dataset(data).manifest),), seed=3, unit_rows=unit_rows)


def units(of: Source, count: int) -> list[dict[str, np.ndarray]]:
    return [decode_unit(read_unit(of, unit), DECODING) for unit in range(count)]


def test_rows_keep_their_picture_caption_and_key(tmp_path: Path) -> None:
    shades = list(range(0, 240, 20))
    of = source(
        tmp_path, jpg=[jpeg(s) for s in shades], caption=[str(s) for s in shades], key=[f"k{s}" for s in shades]
    )
    seen = {}
    for unit in units(of, 3):
        for key, pixels, ids in zip(unit["key"], unit["pixels"], unit["ids"], strict=True):
            shade = int(key[1:])
            assert np.abs(pixels.astype(int) - shade).max() <= 2
            assert (ids == token_ids(str(shade))).all()
            seen[key] = True
    assert len(seen) == 12


def token_ids(caption: str) -> np.ndarray:
    return build_tokenizer(TextConfig(tokenizer="bytes", max_tokens=12))([caption], width=12)[0]


def test_bad_rows_keep_their_place_and_name_their_cause(tmp_path: Path) -> None:
    whole = jpeg(100, side=200)
    rows = {
        "good": (whole, "a"),
        "truncated_image": (whole[: len(whole) // 2], "a"),
        "not_an_image": (b"this is text", "a"),
        "null_image": (None, "a"),
        "empty_caption": (whole, "  "),
        "left out": (whole, None),
    }
    of = source(
        tmp_path,
        unit_rows=5,
        jpg=pa.array([image for image, _ in rows.values()], pa.binary()),
        caption=pa.array([caption for _, caption in rows.values()], pa.string()),
        key=list(rows),
    )
    (unit,) = units(of, 1)
    causes = {key: CAUSES[cause] for key, cause in zip(unit["key"], unit["cause"], strict=True)}
    assert causes == {"good": "valid", **{name: name for name in rows if name not in ("good", "left out")}}
    assert not unit["pixels"][unit["cause"] != 0].any()


def test_rows_without_a_key_are_named_by_their_place(tmp_path: Path) -> None:
    of = source(tmp_path, image=[{"bytes": jpeg(i), "path": None} for i in range(6)], text=["a"] * 6)
    keys = [key for unit in units(of, 3) for key in unit["key"]]
    assert sorted(keys[:6]) == [f"00000.parquet:{row // 5}:{row % 5}" for row in range(6)]


@pytest.mark.parametrize("change", ["gone", "other size", "other rows"])
def test_a_shard_that_is_not_the_indexed_one_is_named(tmp_path: Path, change: str) -> None:
    of = source(tmp_path, jpg=[jpeg(0)] * 8, caption=["a"] * 8)
    shard = tmp_path / "00000.parquet"
    size = shard.stat().st_size
    if change == "gone":
        shard.unlink()
    elif change == "other size":
        source(tmp_path, jpg=[jpeg(0)] * 9, caption=["a"] * 9)
    else:  # as large to the byte, but with a caption missing
        content = pa.table({"jpg": pa.array([jpeg(0)] * 8), "caption": pa.array(["a"] * 7 + [None], pa.string())})
        pq.write_table(content, shard, row_group_size=5)
        with open(shard, "ab") as stream:
            stream.truncate(size) if shard.stat().st_size > size else stream.write(
                b"\0" * (size - shard.stat().st_size)
            )
    with pytest.raises(DataError, match=r"00000\.parquet"):
        units(of, 2)
