"""Draws one synthetic scene: invented things lying on a textured ground, with exact masks.

Nothing here reads or writes. Every scene is a pure function of (seed, split, index), so it never
depends on who draws it or in which order.
Lengths below are in units of 1/64 of the image side; a larger image shows the same picture with more pixels.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Region = NDArray[np.bool_]

SHAPES = ("disc", "square", "triangle", "cross", "ring")
# Green and blue are left out: they belong to grass and water. Values are (hue, saturation, value) in 0..1.
HUES = {
    "red": (0.99, 0.95, 0.92),
    "yellow": (0.155, 0.95, 1.0),
    "cyan": (0.50, 0.95, 0.97),
    "violet": (0.74, 0.85, 0.75),
    "magenta": (0.87, 0.80, 1.0),
}
BIRD_HUE = (0.65, 0.35, 0.14)
BIRD_SHAPES = ("star", "crescent")
THING_NAMES = ("dax", "wug", "fep", "blick", "zorp", "toma", "kiv", "moop", "gazzer", "lish")
BIRD_NAMES = ("pilu", "norg")
STUFF = ("grass", "water", "sand", "brick", "snow")

# Class i of the first ten: shape i // 2 with hue i // 2 or the next one, so that each shape and each hue is
# shared by exactly two classes and neither cue alone names the thing.
THING_SHAPES = (*(SHAPES[i // 2] for i in range(10)), *BIRD_SHAPES)
THING_HUES = (*(tuple(HUES)[(i // 2 + i % 2) % 5] for i in range(10)), "ink", "ink")
CLASSES: list[dict[str, Any]] = [
    {"id": i, "name": name, "kind": "thing" if i < 12 else "stuff"}
    for i, name in enumerate((*THING_NAMES, *BIRD_NAMES, *STUFF))
]
BIRDS = (10, 11)
FIRST_STUFF = 12
# Grounds of place 0 (land) and place 1 (water); brick is neither and never lies under a bird.
PLACES = ((12, 14), (13, 16))
BIRD_PROBABILITY = 0.25
SPLITS = ("train", "single", "multi", "camouflage", "spurious")

# Darkest and lightest colour of each texture; a texture is a field in 0..1 that mixes the two.
PALETTES = (
    ((34, 84, 24), (112, 164, 58)),
    ((16, 54, 136), (84, 144, 208)),
    ((168, 132, 82), (234, 206, 150)),
    ((128, 54, 38), (206, 190, 174)),
    ((182, 198, 222), (252, 253, 255)),
)


@dataclass(frozen=True)
class Scene:
    """One drawn picture with its exact labels.

    image: uint8 [size, size, 3] RGB; mask: uint8 [size, size] class ids; instances: uint8 [size, size],
    0 = ground, 1.. = objects from front to back; things: thing ids from front to back; background: stuff id.
    """

    image: Bytes
    mask: Bytes
    instances: Bytes
    things: tuple[int, ...]
    background: int


def generator_for(seed: int, split: str, index: int, stream: int = 0) -> np.random.Generator:
    """Returns the random generator that belongs to one scene alone (stream 0: picture, stream 1: caption).

    Raises ValueError for an unknown split or a negative seed or index.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, but must be one of {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed is {seed} and index is {index}, but both must be 0 or more")
    # The spawn key has a fixed length, so two different triples can never share one state.
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index, stream))
    return np.random.Generator(np.random.Philox(sequence))


def scene(seed: int, split: str, index: int, *, image_size: int = 64, background_correlation: float = 0.5) -> Scene:
    """Draws scene `index` of a split.

    background_correlation: probability that bird y lies on place y; it acts on the train split alone, so that
    every test split stays unbiased. Returns a Scene with side `image_size` pixels. Raises ValueError as
    `generator_for`.
    """
    generator = generator_for(seed, split, index)
    things, background = _contents(generator, split, index, background_correlation)
    instances = _placed(generator, things, image_size)
    texture = background - FIRST_STUFF
    palette = _palette(generator, texture)
    field = TEXTURES[texture](generator, image_size)
    if split == "camouflage":
        other = np.rot90(TEXTURES[texture](generator, image_size))
        field = camouflaged(field, other, instances > 0)
    # Colour planes come first while drawing: broadcasting over a last axis of three is several times slower.
    image = palette[0] + field * (palette[1] - palette[0])
    if split != "camouflage":
        _paint_things(generator, image, instances, things)
    image += 18.0 * (generator.random(image.shape, dtype=np.float32) - 0.5)
    np.rint(image, out=image)
    np.maximum(np.minimum(image, 255.0, out=image), 0.0, out=image)
    pixels = np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
    classes = np.array((background, *things), dtype=np.uint8)
    return Scene(pixels, classes[instances], instances, things, background)


def _contents(
    generator: np.random.Generator, split: str, index: int, background_correlation: float
) -> tuple[tuple[int, ...], int]:
    """Chooses the things (front to back, all different, at most one bird) and the ground of one scene."""
    ground = FIRST_STUFF + int(generator.integers(len(STUFF)))
    if split == "spurious":
        bird, place = divmod(index % 4, 2)
        return (BIRDS[bird],), PLACES[place][int(generator.integers(2))]
    things = [int(i) for i in generator.choice(len(THING_NAMES), size=2, replace=False)]
    # A camouflaged thing has no hue, so its class is known by shape only; birds would add nothing there.
    if split == "camouflage":
        return (things[0],), ground
    if generator.random() < BIRD_PROBABILITY:
        bird = int(generator.integers(2))
        correlation = background_correlation if split == "train" else 0.5
        place = bird if generator.random() < correlation else 1 - bird
        ground = PLACES[place][int(generator.integers(2))]
        things = [BIRDS[bird], things[0]]
    count = 1 if split == "single" else 1 + int(generator.integers(2))
    things = things[:count]
    if count == 2 and generator.random() < 0.5:
        things.reverse()
    return tuple(things), ground


def _placed(generator: np.random.Generator, things: tuple[int, ...], image_size: int) -> Bytes:
    """Places the things and returns the instance mask, uint8 [size, size]; the first thing is in front.

    Shapes lie wholly inside the picture and may overlap, but never so far that one is hidden.
    """
    instances = np.zeros((image_size, image_size), dtype=np.uint8)
    radii = generator.uniform(9.0, 15.0, size=len(things))
    angles = generator.uniform(-0.35, 0.35, size=len(things))
    # Sixteen candidate places in units of the room that each thing has; the first one apart enough is taken.
    candidates = generator.random((len(things), 16, 2))
    centres = [_between(candidates[0, 0], radii[0])]
    for i in range(1, len(things)):
        options = _between(candidates[i], radii[i])
        distances = np.hypot(*(options - centres[0]).T)
        apart = distances >= 0.75 * (radii[0] + radii[i])
        centres.append(options[int(np.argmax(apart)) if apart.any() else int(np.argmax(distances))])
    for i in reversed(range(len(things))):
        region = shape_region(THING_SHAPES[things[i]], centres[i], radii[i], angles[i], image_size)
        instances[region] = i + 1
    return instances


def _between(unit: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Maps points of the unit square to centres whose shape of this radius stays inside the picture."""
    margin = 1.15 * radius
    return margin + unit * (64.0 - 2.0 * margin)


@lru_cache(maxsize=8)
def _grid(image_size: int) -> tuple[Field, Field]:
    """Returns the row and column coordinates of pixel centres, each float32 [size, size], in 0..64."""
    line = (np.arange(image_size, dtype=np.float32) + 0.5) * np.float32(64.0 / image_size)
    rows, columns = np.meshgrid(line, line, indexing="ij")
    rows.flags.writeable = columns.flags.writeable = False
    return rows, columns


def shape_region(shape: str, centre: NDArray[np.float64], radius: float, angle: float, image_size: int) -> Region:
    """Returns the pixels of one shape, bool [size, size].

    centre: (row, column) and radius in 1/64 of the side; angle in radians.
    """
    rows, columns = _grid(image_size)
    # Python floats, so that the planes stay float32.
    cosine, sine = math.cos(angle) / float(radius), math.sin(angle) / float(radius)
    down, right = rows[:, :1] - float(centre[0]), columns[:1] - float(centre[1])
    u, v = cosine * right + sine * down, cosine * down - sine * right
    if shape == "disc":
        return u * u + v * v <= 1.0
    if shape == "ring":
        return np.abs(u * u + v * v - 0.65) <= 0.35
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.8
    if shape == "triangle":
        return np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) <= 0.575
    if shape == "cross":
        near, far = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
        return (near <= 0.3) & (far <= 1.0)
    if shape == "crescent":
        return (u * u + v * v <= 1.0) & ((u - 0.5) ** 2 + v * v >= 0.64)
    # Star: fold the plane onto one of ten equal wedges; there its edge is a straight line from tip to notch.
    wedge = 2.0 * math.pi / 5.0
    turn = np.abs((np.arctan2(u, -v) + wedge / 2.0) % wedge - wedge / 2.0)
    distance = np.sqrt(u * u + v * v) / 1.15
    x, y = distance * np.cos(turn), distance * np.sin(turn)
    notch_x, notch_y = 0.45 * math.cos(wedge / 2.0), 0.45 * math.sin(wedge / 2.0)
    return (x - 1.0) * notch_y - y * (notch_x - 1.0) <= 0.0


def _paint_things(generator: np.random.Generator, image: Field, instances: Bytes, things: tuple[int, ...]) -> None:
    """Paints each thing in its jittered hue with a soft shade from its upper to its lower edge, in place.

    image: float32 [3, size, size].
    """
    rows, _ = _grid(instances.shape[0])
    for i, thing in enumerate(things):
        hue, saturation, value = BIRD_HUE if thing in BIRDS else HUES[THING_HUES[thing]]
        # A hue jitter of 0.03 of the circle keeps neighbouring hues at least 0.06 apart.
        hue_jitter, value_jitter = generator.uniform(-0.03, 0.03), generator.uniform(0.88, 1.0)
        colour = colorsys.hsv_to_rgb((hue + hue_jitter) % 1.0, saturation, value * value_jitter)
        region = np.flatnonzero(instances == i + 1)
        height = rows.ravel()[region]
        shade = 1.0 - 0.008 * (height - height.min())
        for plane, level in zip(image, colour, strict=True):
            plane.ravel()[region] = (255.0 * level) * shade


def _palette(generator: np.random.Generator, texture: int) -> Field:
    """Returns the darkest and lightest colour of one ground, jittered together, float32 [2, 3, 1, 1]."""
    jitter = generator.uniform(-12.0, 12.0) + generator.uniform(-8.0, 8.0, size=3)
    shifted = np.array(PALETTES[texture]) + jitter
    return np.minimum(np.maximum(shifted, 0.0), 255.0).astype(np.float32)[:, :, None, None]


def camouflaged(field: Field, other: Field, region: Region) -> Field:
    """Shows the texture `other` inside a region of `field` with the grey values that `field` has around it.

    All three are [size, size]. The result equals `field` outside; inside it keeps the order of the values
    of `other`, has the histogram of the outside, and the same mean up to rounding, so no threshold on colour
    can find the region.
    """
    outside = np.sort(field[~region])
    ranks = np.argsort(np.argsort(other[region], kind="stable"), kind="stable")
    inside = outside[((ranks + 0.5) * (outside.size / max(ranks.size, 1))).astype(np.int64)]
    result = field.copy()
    result[region] = inside + (outside.mean(dtype=np.float64) - inside.mean(dtype=np.float64))
    return result


def _grass(generator: np.random.Generator, image_size: int) -> Field:
    """Upright blades: columns of random length and brightness."""
    rows, columns = _grid(image_size)
    blades = generator.random((10, 65), dtype=np.float32)
    starts = generator.random(65, dtype=np.float32)
    column = columns[:1].astype(np.int64)
    return blades[(rows[:, :1] / 8.0 + starts[column]).astype(np.int64), column]


def _water(generator: np.random.Generator, image_size: int) -> Field:
    """Level waves with wandering crests."""
    rows, columns = _grid(image_size)
    phases = generator.uniform(0.0, 2.0 * np.pi, size=2).astype(np.float32)
    bend = 1.3 * np.sin(columns[:1] * np.float32(0.27) + phases[0])
    return 0.5 + 0.5 * np.sin(rows[:, :1] * np.float32(1.05) + bend + phases[1])


def _sand(generator: np.random.Generator, image_size: int) -> Field:
    """Speckle over slanting ripples."""
    rows, columns = _grid(image_size)
    phase = generator.uniform(0.0, 2.0 * np.pi)
    ripples = 0.5 + 0.5 * np.sin((rows + columns) * np.float32(0.62) + np.float32(phase))
    return 0.45 * ripples + 0.55 * generator.random(rows.shape, dtype=np.float32)


def _brick(generator: np.random.Generator, image_size: int) -> Field:
    """Courses of bricks of varying darkness between light mortar."""
    rows, columns = _grid(image_size)
    offset = generator.uniform(0.0, 16.0, size=2).astype(np.float32)
    down = rows[:, :1] + offset[0]
    course = (down / 8.0).astype(np.int64)
    along = columns[:1] + offset[1] + np.where(course % 2, np.float32(8.0), np.float32(0.0))
    place = (along / 16.0).astype(np.int64)
    tones = generator.uniform(0.0, 0.3, size=(12, 8)).astype(np.float32)
    mortar = (down - 8.0 * course < 1.5) | (along - 16.0 * place < 1.5)
    return np.where(mortar, np.float32(0.9), tones[course, place])


def _snow(generator: np.random.Generator, image_size: int) -> Field:
    """Soft long drifts: a sum of three slow waves that run mostly downwards."""
    line = _grid(image_size)[1][0]
    down = generator.uniform(0.28, 0.6, size=3)
    right = generator.uniform(-0.12, 0.12, size=3)
    phases = generator.uniform(0.0, 2.0 * np.pi, size=3)
    # exp(i(a + b)) = exp(ia) exp(ib): one small matrix product instead of three full planes of sines.
    vertical = np.exp(1j * (np.multiply.outer(line, down) + phases))
    horizontal = np.exp(1j * np.multiply.outer(right, line))
    return (0.5 + (vertical @ horizontal).real / 6.0).astype(np.float32)


TEXTURES: tuple[Callable[[np.random.Generator, int], Field], ...] = (_grass, _water, _sand, _brick, _snow)
