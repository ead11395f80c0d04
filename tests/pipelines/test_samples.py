"""Reading and decoding one unit: the plan's rows, with bad ones kept in place and their cause named."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clippy.architecture import TextConfig
from clippy.crops import RandomResizedCrop
from clippy.tokens import build_tokenizer
from pipelines.columns import DataError, is_list, plain_type
from pipelines.index import index_dataset
from pipelines.inspection.collect import inspect_data
from pipelines.prepare import captions
from pipelines.samples import CAUSES, Dataset, Decoding, Source, decode_unit, read_unit
from pipelines.sections import DatasetConfig

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


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(4), pa.large_binary()])
def test_keys_of_bytes_are_text_as_training_and_inspection_name_them(tmp_path: Path, kind: pa.DataType) -> None:
    digests = pa.array([b"\xff\x00\x00\x01", b"abcd"], kind)
    of = source(tmp_path, jpg=[jpeg(0)] * 2, caption=["a"] * 2, sha256=digests)
    (unit,) = units(replace(of, unit_rows=2), 1)
    assert sorted(unit["key"]) == ["abcd", "ff000001"]
    assert sorted(row.key for row in inspect_data(of.datasets[0].config, 2, 16).rows) == ["abcd", "ff000001"]


@pytest.mark.parametrize(
    ("image", "caption", "status"),
    [
        (pa.binary_view(), pa.string_view(), pa.string_view()),
        (pa.struct([("bytes", pa.dictionary(pa.int32(), pa.binary()))]), pa.string(), pa.string()),
        (pa.binary(), pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())),
        (pa.binary(), pa.list_(pa.string_view()), pa.string()),
        (pa.binary(), pa.list_(pa.dictionary(pa.int32(), pa.large_string())), pa.string()),
        (pa.binary(), pa.list_view(pa.string()), pa.string()),
    ],
)
def test_categories_and_views_are_read_as_the_values_that_they_stand_for(
    tmp_path: Path, image: pa.DataType, caption: pa.DataType, status: pa.DataType
) -> None:
    words: list[object] = ["a", "b", None, "a", "c", "b"]
    if is_list(plain_type(caption)):
        words = [word and [word, f"{word}s"] for word in words]
    columns = {"image": [jpeg(40 * i) for i in range(6)], "key": list("012345")}
    success = ["success", "success", "success", "failed", "success", "success"]
    plain, same = tmp_path / "plain", tmp_path / "same"
    plain.mkdir()
    same.mkdir()
    expected = source(plain, **columns, caption=words, status=success)
    pictures: list[object] = [{"bytes": data} if pa.types.is_struct(image) else data for data in columns["image"]]
    columns["image"] = pa.array(pictures, image)
    of = source(same, **columns, caption=pa.array(words, caption), status=pa.array(success, status))
    assert pq.read_schema(same / "00000.parquet").field("caption").type.id == caption.id  # or nothing is tested
    (theirs,), (ours,) = units(expected, 1), units(of, 1)  # an epoch, in the order of its own dataset
    for name in ("key", "cause", "pixels", "ids"):
        a, b = (unit[name][np.argsort(unit["key"])] for unit in (theirs, ours))
        assert len(a) == 4
        assert (a == b).all(), name
    assert sorted(captions(of.datasets)) == sorted(captions(expected.datasets))
    rows = [inspect_data(each.datasets[0].config, 4, 16).rows for each in (of, expected)]
    assert [(row.key, row.captions) for row in rows[0]] == [(row.key, row.captions) for row in rows[1]]


@pytest.mark.parametrize("several", [False, True])
def test_text_that_is_no_utf8_is_a_caption_with_replacements(tmp_path: Path, several: bool) -> None:
    broken = pa.array([b"caf\xe9", b"tea"]).view(pa.string())
    captions_there = pa.ListArray.from_arrays([0, 1, 2], broken) if several else broken
    of = replace(source(tmp_path, jpg=[jpeg(0)] * 2, caption=captions_there, key=broken), unit_rows=2)
    (unit,) = units(of, 1)
    assert (unit["cause"] == 0).all()
    ids = dict(zip(unit["key"], unit["ids"].tolist(), strict=True))
    assert ids == {"caf\ufffd": token_ids("caf\ufffd").tolist(), "tea": token_ids("tea").tolist()}
    assert list(captions(of.datasets)) == ["caf\ufffd", "tea"]
    rows = inspect_data(of.datasets[0].config, 2, 16).rows
    assert [(row.key, row.captions) for row in rows] == [("caf\ufffd", ("caf\ufffd",)), ("tea", ("tea",))]


def test_a_column_that_names_no_rows_is_no_key(tmp_path: Path) -> None:
    of = source(tmp_path, jpg=[jpeg(0)] * 2, caption=["a"] * 2, id=[[1], [2]])
    (unit,) = units(replace(of, unit_rows=2), 1)
    assert sorted(unit["key"]) == ["00000.parquet:0:0", "00000.parquet:0:1"]
    with pytest.raises(DataError, match=r"column 'id' holds list<.*>, not one name a row; set data\.key_column"):
        index_dataset(DatasetConfig(url=str(tmp_path), key_column="id"))


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


def test_a_shard_that_is_replaced_while_it_is_read_is_named(tmp_path: Path) -> None:
    of = source(tmp_path, jpg=[jpeg(0)] * 8, caption=["a"] * 8)
    assert len(units(of, 2)) == 2
    source(tmp_path, jpg=[jpeg(i, 40) for i in range(9)], caption=["something longer"] * 9)
    with pytest.raises(DataError, match=r"00000\.parquet: this shard changed after it was indexed; run: clippy data"):
        units(of, 2)


@pytest.mark.parametrize("change", ["gone", "other rows"])
def test_captions_are_read_of_the_indexed_shard_alone(tmp_path: Path, change: str) -> None:
    of = source(tmp_path, jpg=[jpeg(0)] * 8, caption=["a"] * 8)
    assert list(captions(of.datasets)) == ["a"] * 8
    moved = tmp_path / "elsewhere"  # on object storage nobody asks before the first shard is read
    moved.mkdir()
    if change == "other rows":
        source(moved, jpg=[jpeg(0)] * 8, caption=["b"] * 8)
    config = DatasetConfig(url=str(moved))
    with pytest.raises(DataError, match=r"00000\.parquet: this shard .*run: clippy data index"):
        list(captions((Dataset(config, of.datasets[0].manifest),)))


def rows_of(of: Source, first_row: int, stop_row: int, decoding: Decoding = DECODING) -> dict[str, np.ndarray]:
    """Decoded rows [first_row, stop_row) of the endless sequence, joined."""
    units = range(first_row // of.unit_rows, stop_row // of.unit_rows)
    decoded = [decode_unit(read_unit(of, unit), decoding) for unit in units]
    return {name: np.concatenate([unit[name] for unit in decoded]) for name in ("key", "pixels", "ids")}


def test_one_of_several_captions_is_drawn_anew_in_each_pass_whatever_the_unit(tmp_path: Path) -> None:
    captions = [[f"{row}a", " ", f"{row}b", f"{row}c"] for row in range(8)]
    of = source(tmp_path, jpg=[jpeg(0)] * 8, caption=captions, key=[str(row) for row in range(8)])
    whole = rows_of(of, 0, 32 * 8)
    again = rows_of(replace(of, unit_rows=2), 0, 32 * 8)
    assert np.array_equal(whole["ids"], again["ids"])
    drawn: dict[str, set[bytes]] = {}
    for key, ids in zip(whole["key"], whole["ids"], strict=True):
        possible = {token_ids(f"{key}{letter}").tobytes() for letter in "abc"}
        assert ids.tobytes() in possible
        drawn.setdefault(key, set()).add(ids.tobytes())
    assert all(len(seen) == 3 for seen in drawn.values())  # in 32 passes each comes up


def test_random_crops_follow_seed_pass_and_key_alone(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(64) * 2, np.arange(64) * 2).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(ramp).save(stream, "PNG")
    of = source(tmp_path, jpg=[stream.getvalue()] * 8, caption=["a"] * 8, key=[str(row) for row in range(8)])
    decoding = replace(DECODING, seed=5, crop=RandomResizedCrop((0.3, 0.8), (0.75, 1.333)))
    whole, again = rows_of(of, 0, 16, decoding), rows_of(replace(of, unit_rows=2), 0, 16, decoding)
    assert np.array_equal(whole["pixels"], again["pixels"])
    by_key: dict[str, list[np.ndarray]] = {}
    for key, pixels in zip(whole["key"], whole["pixels"], strict=True):
        by_key.setdefault(key, []).append(pixels)
    assert all(not np.array_equal(*passes) for passes in by_key.values())  # the second pass crops elsewhere
    assert len({passes[0].tobytes() for passes in by_key.values()}) == 8  # and so does every other key
    other = rows_of(of, 0, 16, replace(decoding, seed=6))
    assert not np.array_equal(whole["pixels"], other["pixels"])


def test_a_mixture_reads_each_dataset_by_its_own_columns(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    a = source(tmp_path / "a", jpg=[jpeg(10)] * 6, caption=["a"] * 6, key=[f"a{row}" for row in range(6)])
    b = source(tmp_path / "b", image=[{"bytes": jpeg(200), "path": None}] * 4, text=["b"] * 4, uid=list("wxyz"))
    twice = replace(b.datasets[0], config=b.datasets[0].config.model_copy(update={"weight": 2.0}))
    mixture = Source((a.datasets[0], twice), seed=1, unit_rows=7)
    rows = rows_of(mixture, 0, 14)
    assert sorted(rows["key"]) == sorted([*(f"a{row}" for row in range(6)), *"wxyz", *"wxyz"])
    shades = rows["pixels"].reshape(14, -1).mean(1)
    assert all(abs(shade - (10 if key[0] == "a" else 200)) < 3 for key, shade in zip(rows["key"], shades, strict=True))


def test_threads_that_read_at_once_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(6):
        keys = [f"{shard}-{row}" for row in range(4)]
        rows = {"key": keys, "jpg": [jpeg(shard)] * 4, "caption": keys}
        pq.write_table(pa.table(rows), tmp_path / f"{shard}.parquet", row_group_size=4)
    config = DatasetConfig(url=str(tmp_path))
    of = Source((Dataset(config, index_dataset(config).manifest),), seed=0, unit_rows=4)
    alone = [read_unit(of, unit).column("key").to_pylist() for unit in range(6)]
    monkeypatch.setattr("pipelines.samples._MOST_SHARDS", 1)  # each thread puts away what the others still want
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda i: read_unit(of, i % 6).column("key").to_pylist(), range(600)))
    assert together == alone * 100
