"""Behaviour of the synthetic benchmark: scenes, captions, files, and what a user sees when something is off."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import scenes
from pipelines.scenes import BIRDS, FIRST_STUFF, HUES, PLACES, THING_HUES, THING_SHAPES, generator_for
from pipelines.shapes import CLASSES, TEMPLATES, Parameters, Scene, caption, generate, scene

NAMES = [row["name"] for row in CLASSES]
SMALL = {"rows": 40, "shard_rows": 16, "row_group_rows": 8, "single_rows": 9, "multi_rows": 7}
SMALL |= {"camouflage_rows": 5, "seed": 3}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    generate(str(folder), workers=1, **SMALL)
    return folder


# ---- scenes


def test_each_shape_and_each_hue_is_shared_by_exactly_two_classes() -> None:
    assert set(Counter(THING_SHAPES[:10]).values()) == {2}
    assert set(Counter(THING_HUES[:10]).values()) == {2}
    assert len(set(zip(THING_SHAPES, THING_HUES, strict=True))) == 12
    assert THING_HUES[10] == THING_HUES[11]
    assert THING_SHAPES[10] != THING_SHAPES[11]
    assert [row["id"] for row in CLASSES] == list(range(17))
    assert [row["kind"] for row in CLASSES] == ["thing"] * 12 + ["stuff"] * 5


def test_no_name_can_be_mistaken_for_another_word() -> None:
    # A reader may look for names as substrings, so none may hide in another name or in a template.
    text = " ".join(TEMPLATES) + " and with"
    assert len(set(NAMES)) == 17
    assert not [(a, b) for a in NAMES for b in [*NAMES, text] if a != b and a in b]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    split=st.sampled_from(scenes.SPLITS),
    index=st.integers(0, 10**9),
    image_size=st.integers(32, 256),
)
def test_masks_of_any_scene_are_consistent(seed: int, split: str, index: int, image_size: int) -> None:
    drawn = scene(seed, split, index, image_size=image_size)
    assert drawn.image.shape == (image_size, image_size, 3)
    assert drawn.mask.shape == drawn.instances.shape == (image_size, image_size)
    assert drawn.image.dtype == drawn.mask.dtype == drawn.instances.dtype == np.uint8
    assert len(set(drawn.things)) == len(drawn.things) in (1, 2)
    assert len(set(drawn.things) & set(BIRDS)) <= 1
    assert np.array_equal(drawn.mask == drawn.background, drawn.instances == 0)
    for i, thing in enumerate(drawn.things):
        region = drawn.instances == i + 1
        assert np.array_equal(drawn.mask == thing, region)
        # Enough of every thing named in the caption can be seen: 64 of 64 x 64 pixels at the least.
        assert region.mean() > 64 / 64**2
    assert set(np.unique(drawn.mask)) == {drawn.background, *drawn.things}


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    again = [scene(7, "multi", i).image for i in (5, 2)]
    assert np.array_equal(again[0], scene(7, "multi", 5).image)
    others = [scene(8, "multi", 5), scene(7, "train", 5), scene(7, "multi", 6)]
    assert all(not np.array_equal(again[0], other.image) for other in others)


def test_each_thing_shows_its_own_hue_and_shape() -> None:
    for i in range(150):
        drawn = scene(0, "single", i)
        thing = drawn.things[0]
        if thing in BIRDS:
            assert drawn.image[drawn.mask == thing].max() < 90
            continue
        red, green, blue = drawn.image[drawn.mask == thing].mean(axis=0) / 255
        hue = scenes.colorsys.rgb_to_hsv(red, green, blue)[0]
        distance = {name: abs((hue - value[0] + 0.5) % 1 - 0.5) for name, value in HUES.items()}
        assert min(distance, key=lambda name: distance[name]) == THING_HUES[thing]


@pytest.mark.parametrize("shape", sorted(set(THING_SHAPES)))
def test_shapes_differ_clearly_and_stay_inside(shape: str) -> None:
    centre = np.array([32.0, 32.0])
    region = scenes.shape_region(shape, centre, 12.0, 0.2, 64)
    rows, columns = np.nonzero(region)
    assert np.hypot(rows + 0.5 - 32, columns + 0.5 - 32).max() <= 1.16 * 12
    for other in set(THING_SHAPES) - {shape}:
        second = scenes.shape_region(other, centre, 12.0, 0.2, 64)
        assert (region & second).sum() / (region | second).sum() < 0.9


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95, 1.0])
def test_birds_follow_their_ground_as_often_as_asked(rho: float) -> None:
    count, birds, matched = 1500, 0, 0
    for i in range(count):
        contents = scenes._contents(generator_for(1, "train", i), "train", i, rho)
        bird = set(contents[0]) & set(BIRDS)
        if bird:
            birds += 1
            matched += contents[1] in PLACES[bird.pop() - BIRDS[0]]
    assert abs(birds / count - 0.25) < 0.04
    assert abs(matched / birds - rho) <= (0.08 if 0 < rho < 1 else 0)


def test_test_splits_ignore_the_correlation() -> None:
    for split in ("single", "multi", "spurious"):
        plain, biased = (scene(0, split, 4, background_correlation=rho) for rho in (0.5, 1.0))
        assert np.array_equal(plain.image, biased.image)


def two_means(image: np.ndarray) -> np.ndarray:
    """Splits pixels by colour into two clusters, started at the ends of the main axis of colour."""
    pixels = image.reshape(-1, 3).astype(np.float64)
    axis = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)[2][0]
    order = np.argsort(pixels @ axis)
    centres = pixels[order[[0, -1]]]
    for _ in range(12):
        nearest = ((pixels[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.array([pixels[nearest == k].mean(axis=0) for k in (0, 1)])
    return nearest.reshape(image.shape[:2]).astype(bool)


def colour_iou(drawn: Scene) -> float:
    """Returns how well colour alone finds the things: the better of the two assignments of two clusters."""
    things, cluster = drawn.instances > 0, two_means(drawn.image)
    return max((things & side).sum() / (things | side).sum() for side in (cluster, ~cluster))


def test_colour_finds_plain_things_but_not_camouflaged_ones() -> None:
    plain = np.mean([colour_iou(scene(0, "single", i)) for i in range(60)])
    hidden = np.mean([colour_iou(scene(0, "camouflage", i)) for i in range(60)])
    assert plain > 0.5
    assert hidden < 0.2


def test_camouflage_keeps_mean_and_histogram_of_every_channel() -> None:
    for i in range(40):
        drawn = scene(0, "camouflage", i)
        inside, outside = drawn.image[drawn.instances > 0], drawn.image[drawn.instances == 0]
        # What is left is the noise of the picture (standard deviation 5.2), averaged over the thing.
        assert np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max() < 5 * 5.2 / np.sqrt(len(inside)) + 0.1
        levels = np.linspace(0.05, 0.95, 10)
        gap = np.quantile(inside, levels, axis=0) - np.quantile(outside, levels, axis=0)
        assert np.abs(gap).mean() < 4


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.02, 0.9), size=st.integers(8, 40))
def test_camouflage_of_any_region_has_the_mean_of_its_surroundings(seed: int, share: float, size: int) -> None:
    generator = np.random.default_rng(seed)
    field, other = generator.random((2, size, size), dtype=np.float32)
    region = generator.random((size, size)) < share
    if region.all() or not region.any():
        return
    hidden = scenes.camouflaged(field, other, region)
    assert np.array_equal(hidden[~region], field[~region])
    assert hidden[region].mean(dtype=np.float64) == pytest.approx(field[~region].mean(dtype=np.float64), abs=1e-6)
    # The order of the other texture survives, so its pattern can be seen.
    order = np.argsort(other[region], kind="stable")
    assert (np.diff(hidden[region][order]) >= 0).all()


# ---- captions


@settings(max_examples=100, deadline=None)
@given(index=st.integers(0, 10**6), probability=st.floats(0, 1))
def test_a_caption_names_exactly_the_things_of_its_scene(index: int, probability: float) -> None:
    things, ground = scenes._contents(generator_for(0, "train", index), "train", index, 0.5)
    blank = np.zeros((1, 1), dtype=np.uint8)
    text = caption(Scene(blank, blank, blank, things, ground), generator_for(0, "train", index, 1), probability)
    found = [NAMES.index(word) for word in text.rstrip(".").split() if word in NAMES]
    assert sorted(i for i in found if i < FIRST_STUFF) == sorted(things)
    assert [i for i in found if i >= FIRST_STUFF] in ([], [ground])
    assert any(text.startswith(template.split("{}")[0]) and text.endswith(".") for template in TEMPLATES)


def test_captions_name_the_ground_as_often_as_asked() -> None:
    blank = np.zeros((1, 1), dtype=np.uint8)
    share = {}
    for things in ((0, 1), (0, BIRDS[0])):
        drawn = Scene(blank, blank, blank, things, FIRST_STUFF)
        texts = [caption(drawn, generator_for(0, "train", i, 1), 0.1) for i in range(1500)]
        share[things] = np.mean(["grass" in text for text in texts])
        assert 0.4 < np.mean([text.index(NAMES[0]) < text.index(NAMES[things[1]]) for text in texts]) < 0.6
    assert share[(0, 1)] == pytest.approx(0.5, abs=0.05)
    assert share[(0, BIRDS[0])] == pytest.approx(0.1, abs=0.03)


# ---- files


def test_training_shards_follow_img2dataset(dataset: Path) -> None:
    files = sorted((dataset / "train").glob("*.parquet"))
    assert [f.name for f in files] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    parquet = pyarrow.parquet.ParquetFile(files[0])
    strings = {"url", "caption", "key", "status", "error_message", "exif", "sha256"}
    assert parquet.schema_arrow.names == (
        [
            "url",
            "caption",
            "key",
            "status",
            "error_message",
            "width",
            "height",
            "original_width",
            "original_height",
            "exif",
            "sha256",
            "jpg",
        ]
    )
    for field in parquet.schema_arrow:
        assert field.type == (
            pa.string() if field.name in strings else pa.binary() if field.name == "jpg" else pa.int32()
        )
    assert [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)] == [8, 8]
    rows = pyarrow.parquet.read_table(files[1]).to_pylist()
    assert [row["key"] for row in rows[:2]] == ["000010000", "000010001"]
    assert rows[0]["url"] == "shapes://train/16"
    assert {(row["status"], row["error_message"], row["exif"]) for row in rows} == {("success", None, "{}")}
    for i, row in enumerate(rows):
        assert hashlib.sha256(row["jpg"]).hexdigest() == row["sha256"]
        assert row["jpg"][:3] == b"\xff\xd8\xff"
        pixels = decoded(row["jpg"]).astype(int)
        assert pixels.shape == (row["height"], row["width"], 3) == (64, 64, 3)
        assert np.abs(pixels - scene(3, "train", 16 + i).image).mean() < 4
    stats = json.loads((dataset / "train" / "00002_stats.json").read_text())
    assert stats["count"] == stats["successes"] == stats["status_dict"]["success"] == 8


@pytest.mark.parametrize(("split", "count"), [("single", 9), ("multi", 7), ("camouflage", 5), ("spurious", 400)])
def test_test_sets_hold_exact_masks(dataset: Path, split: str, count: int) -> None:
    rows = pyarrow.parquet.read_table(dataset / "evaluation" / split).to_pylist()
    assert len(rows) == count
    for i, row in list(enumerate(rows))[:: max(1, count // 20)]:
        drawn = scene(3, split, i)
        assert Image.open(io.BytesIO(row["mask"])).mode == "L"
        assert np.array_equal(decoded(row["mask"]), drawn.mask)
        assert np.array_equal(decoded(row["instances"]), drawn.instances)
        assert np.abs(decoded(row["image"]).astype(int) - drawn.image).mean() < 4
        assert row["labels"] == list(drawn.things)
        assert (row["label"], row["background"]) == (drawn.things[0], drawn.background)
        assert split == "multi" or len(row["labels"]) == 1
    if split == "spurious":
        assert Counter(row["group"] for row in rows) == {0: 100, 1: 100, 2: 100, 3: 100}
        for row in rows:
            assert row["label"] == BIRDS[row["group"] // 2]
            assert row["background"] in PLACES[row["group"] % 2]


def test_the_written_vocabulary_is_the_one_in_memory(dataset: Path) -> None:
    written = json.loads((dataset / "evaluation" / "classes.json").read_text())
    assert written == {"classes": CLASSES, "templates": list(TEMPLATES)}


def test_two_processes_write_the_same_bytes_as_one(dataset: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    counts = generate(str(tmp_path), workers=2, progress=lambda done, total: seen.append((done, total)), **SMALL)
    assert counts == {"train": 40, "single": 9, "multi": 7, "camouflage": 5, "spurious": 400}
    assert files_below(tmp_path) == files_below(dataset)
    assert seen[-1] == (461, 461)
    assert seen == sorted(seen)


def test_another_filesystem_gets_the_same_bytes(dataset: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(memory))
    generate("bucket/data", workers=1, filesystem=filesystem, **SMALL)
    generate("bucket/data", workers=1, filesystem=filesystem, **SMALL)
    written = {path.removeprefix("/bucket/data/"): memory.cat(path) for path in memory.find("/bucket/data")}
    assert written == files_below(dataset)


def test_a_whole_dataset_is_left_alone(dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    calls: list[tuple[int, int]] = []
    counts = generate(str(dataset), progress=lambda done, total: calls.append((done, total)), **SMALL)
    assert counts["train"] == 40
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_a_dataset_of_other_parameters_is_refused(dataset: Path) -> None:
    before = files_below(dataset)
    with pytest.raises(ValueError, match=r"seed = 3, not 4; remove the folder or choose another"):
        generate(str(dataset), **(SMALL | {"seed": 4}))
    assert files_below(dataset) == before


def test_a_foreign_marker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shapes.json").write_text("[]")
    with pytest.raises(ValueError, match="not the marker of a shapes dataset"):
        generate(str(tmp_path), **SMALL)


def test_an_unfinished_dataset_is_written_again_without_its_leftovers(dataset: Path, tmp_path: Path) -> None:
    train = tmp_path / "train"
    train.mkdir()
    for name in ("00000.parquet", "00007.parquet", "00007_stats.json", ".00001.parquet.partial", "notes.txt"):
        (train / name).write_text("half")
    generate(str(tmp_path), workers=1, **SMALL)
    assert (train / "notes.txt").read_text() == "half"
    (train / "notes.txt").unlink()
    assert files_below(tmp_path) == files_below(dataset)


def test_the_marker_is_missing_when_a_run_is_stopped(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(str(tmp_path), workers=1, progress=stop, **SMALL)
    names = set(files_below(tmp_path))
    assert names == {"train/00000.parquet", "train/00000_stats.json"}


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("rows", 0, "1 or more"),
        ("rows", 1.5, "whole number"),
        ("seed", -1, "between 0"),
        ("row_group_rows", 0, "1 or more"),
        ("shard_rows", 10_001, "between 1 and 10000"),
        ("background_correlation", 1.01, "between 0 and 1"),
        ("background_correlation", float("nan"), "between 0 and 1"),
        ("bird_background_caption_probability", -0.1, "between 0 and 1"),
        ("image_size", 31, "between 32 and 256"),
        ("image_size", 257, "between 32 and 256"),
        ("single_rows", -1, "0 or more"),
        ("workers", 0, "1 or more"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, field: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is {value}, but must be .*{rule}"):
        generate(str(tmp_path / "out"), **{field: value})
    assert not (tmp_path / "out").exists()


def test_rows_that_do_not_fit_the_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="shard_rows is 1, but must be large enough"):
        Parameters(rows=100_001, shard_rows=1)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 5000), shard_rows=st.integers(1, 10_000))
def test_shards_cover_every_row_once(rows: int, shard_rows: int) -> None:
    from pipelines.shapes import _plan

    plan = [s for s in _plan(Parameters(rows=rows, shard_rows=shard_rows)) if s.split == "train"]
    assert [i for shard in plan for i in range(shard.start, shard.stop)] == list(range(rows))
    assert [shard.number for shard in plan] == list(range(len(plan)))
    assert all(shard.stop - shard.start <= shard_rows for shard in plan)


def test_unknown_splits_are_named() -> None:
    with pytest.raises(ValueError, match="split is 'test', but must be one of train, single"):
        scene(0, "test", 0)
