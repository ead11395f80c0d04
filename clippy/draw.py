"""Draw what a model saw: label maps over pictures, with the names of the classes underneath."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Labels = NDArray[Any]

TILE_PIXELS = 256
MARGIN = 8
TEXT_SIZE = 15
LINE_HEIGHT = 22
SWATCH = 14
OUTLINE = 2
"""Pixels of each of the two lines that a region's edge is marked with."""
BACKGROUND = (255, 255, 255)
INK = (20, 20, 20)
GOLDEN_ANGLE = 0.381966  # of a full turn
LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601

# Hand-picked so that neighbours in the list differ in hue and in lightness alike.
HAND_PICKED = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 90, 220),
    (245, 130, 48),
    (145, 30, 180),
    (66, 212, 244),
    (240, 50, 230),
    (191, 239, 69),
    (128, 0, 0),
    (0, 128, 128),
    (250, 190, 212),
    (154, 99, 36),
    (220, 190, 255),
    (0, 0, 117),
    (170, 255, 195),
    (128, 128, 0),
    (255, 216, 177),
    (128, 128, 128),
    (40, 40, 40),
)


def palette(num_classes: int) -> Pixels:
    """List fixed, distinct colours: class 3 has the same colour however many classes there are.

    Returns (C, 3) uint8: 20 hand-picked colours, then golden-angle hues of alternating lightness.
    """
    colours = list(HAND_PICKED[:num_classes])
    for index in range(num_classes - len(colours)):
        lightness = (0.35, 0.65, 0.5, 0.8)[index % 4]
        saturation = (0.9, 0.55, 0.7)[index % 3]
        red, green, blue = colorsys.hls_to_rgb(index * GOLDEN_ANGLE % 1, lightness, saturation)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return np.array(colours, dtype=np.uint8).reshape(-1, 3)


def overlay(image: Pixels, labels: Labels, colours: Pixels, opacity: float = 0.7) -> Pixels:
    """Tint each pixel with the colour of its class, over the picture in grey.

    image: (H, W, 3) uint8. labels: (H, W) integers; ids without a colour (255 for void) leave the picture
    as it is. colours: (C, 3) uint8. opacity: 0 shows the grey picture only, 1 the colours only.
    Returns (H, W, 3) uint8. Raises ValueError for shapes that do not fit or an opacity outside 0..1.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8 (got {image.shape} {image.dtype})")
    if labels.shape != image.shape[:2]:
        raise ValueError(f"labels {labels.shape} do not cover an image of {image.shape[:2]}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be between 0 and 1 (got {opacity})")
    known = (labels >= 0) & (labels < len(colours))
    tinted = image.astype(np.float64)
    # Grey, because a colour blended with a colour matches no swatch of the legend.
    grey = tinted[known] @ LUMINANCE
    tinted[known] = (1 - opacity) * grey[:, None] + opacity * colours[labels[known]]
    return np.rint(tinted).astype(np.uint8)


def panel(
    image: Pixels,
    prediction: Labels,
    truth: Labels | None,
    names: Sequence[str],
    colours: Pixels,
    scale: int | None = None,
) -> Image.Image:
    """Draw picture, prediction and ground truth side by side, captions above, legend below.

    image: (H, W, 3) uint8; prediction, truth: (H, W) integers; names: C class names; colours: at least
    (C, 3) uint8. scale: whole-number enlargement without smoothing; None makes the longer side about
    256 pixels (never smaller than the image). The legend lists the named classes present in prediction or
    truth. Raises ValueError for shapes that do not fit, scale < 1, or fewer colours than names.
    """
    if len(colours) < len(names):
        raise ValueError(f"{len(names)} names need as many colours (got {len(colours)})")
    if scale is None:
        scale = max(1, round(TILE_PIXELS / max(image.shape[:2])))
    if scale < 1:
        raise ValueError(f"scale must be at least 1 (got {scale})")
    tiles = [("picture", image), ("prediction", overlay(image, prediction, colours))]
    if truth is not None:
        tiles.append(("ground truth", overlay(image, truth, colours)))
    height, width = image.shape[0] * scale, image.shape[1] * scale
    total_width = MARGIN + len(tiles) * (width + MARGIN)

    present = np.unique(prediction if truth is None else np.concatenate([prediction, truth], axis=None))
    entries = [
        (names[index], (int(colours[index][0]), int(colours[index][1]), int(colours[index][2])))
        for index in present.tolist()
        if 0 <= index < len(names)
    ]
    legend = _legend(entries, total_width)
    top = MARGIN + LINE_HEIGHT
    canvas = Image.new("RGB", (total_width, top + height + MARGIN + legend.height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for position, (caption, pixels) in enumerate(tiles):
        left = MARGIN + position * (width + MARGIN)
        pen.text((left, MARGIN), _fit(caption, width), fill=INK, font=_font())
        tile = Image.fromarray(np.ascontiguousarray(pixels))
        canvas.paste(tile.resize((width, height), Image.Resampling.NEAREST), (left, top))
    canvas.paste(legend, (0, top + height + MARGIN))
    return canvas


def tile(image: Pixels, caption: str, region: Labels | None = None) -> Image.Image:
    """Draw a picture in a square of TILE_PIXELS with a caption below, and the outline of a region of it.

    image: (H, W, 3) uint8; region: (H, W) bool. A small picture is enlarged without smoothing. Returns an RGB picture,
    the same size for all. Raises ValueError for shapes that do not fit.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8 (got {image.shape} {image.dtype})")
    if region is not None and region.shape != image.shape[:2]:
        raise ValueError(f"region {region.shape} does not cover an image of {image.shape[:2]}")
    scale = TILE_PIXELS / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    smoothing = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    shown = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, smoothing))
    if region is not None:
        inside = Image.fromarray(region.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        shown = _outlined(shown, np.asarray(inside) > 0)
    canvas = Image.new("RGB", (TILE_PIXELS + 2 * MARGIN, TILE_PIXELS + 2 * MARGIN + LINE_HEIGHT), BACKGROUND)
    corner = (MARGIN + (TILE_PIXELS - size[0]) // 2, MARGIN + (TILE_PIXELS - size[1]) // 2)
    canvas.paste(Image.fromarray(shown), corner)
    text = _fit(caption, TILE_PIXELS)
    ImageDraw.Draw(canvas).text((MARGIN, TILE_PIXELS + MARGIN + 2), text, fill=INK, font=_font())
    return canvas


def sheet(panels: Sequence[Image.Image], columns: int, title: str = "") -> Image.Image:
    """Lay out panels on one page in reading order, below a title; each column is as wide as its widest panel.

    Returns an RGB picture. Raises ValueError for no panels or columns < 1.
    """
    if not panels or columns < 1:
        raise ValueError(f"a sheet needs a panel and a column (got {len(panels)} and {columns})")
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(item.height for item in row) for row in rows]
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(len(rows[0]))]
    above = MARGIN + LINE_HEIGHT if title else 0
    page = Image.new("RGB", (sum(widths), above + sum(heights)), BACKGROUND)
    if title:
        text = _fit(title, page.width - 2 * MARGIN)
        ImageDraw.Draw(page).text((MARGIN, MARGIN), text, fill=INK, font=_font())
    for row_index, row in enumerate(rows):
        for column, item in enumerate(row):
            page.paste(item, (sum(widths[:column]), above + sum(heights[:row_index])))
    return page


def _outlined(image: Pixels, inside: NDArray[np.bool_]) -> Pixels:
    """Mark the edge of a region, dark and within that light, so that it is seen on any ground."""
    outlined = image.copy()
    padded = np.pad(inside, 1)  # the picture's own edge is one too
    for colour in (INK, BACKGROUND):
        before = padded[1:-1, 1:-1].copy()
        for _ in range(OUTLINE):
            padded[1:-1, 1:-1] &= padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        outlined[before & ~padded[1:-1, 1:-1]] = colour
    return outlined


def _legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> Image.Image:
    """Draw swatches with names, from left to right, on as many lines as the width asks for."""
    text_offset = SWATCH + 6
    placed: list[tuple[int, int, str, tuple[int, int, int]]] = []
    left, line = MARGIN, 0
    for name, colour in entries:
        shown = _fit(name, width - 2 * MARGIN - text_offset)
        entry_width = text_offset + round(_font().getlength(shown))
        if left > MARGIN and left + entry_width > width - MARGIN:
            left, line = MARGIN, line + 1
        placed.append((left, line * LINE_HEIGHT, shown, colour))
        left += entry_width + 2 * MARGIN
    height = (line + 1) * LINE_HEIGHT + MARGIN if entries else 0
    legend = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(legend)
    for x, y, shown, colour in placed:
        swatch_top = y + (LINE_HEIGHT - SWATCH) // 2
        pen.rectangle((x, swatch_top, x + SWATCH, swatch_top + SWATCH), fill=colour, outline=INK)
        pen.text((x + text_offset, y + LINE_HEIGHT // 2), shown, fill=INK, font=_font(), anchor="lm")
    return legend


def _fit(text: str, width: int) -> str:
    """Shorten a text with dots until it is at most `width` pixels wide."""
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


@cache
def _font() -> Any:
    # Any: without FreeType, Pillow's type also admits a bitmap font that has no size.
    # Cached: Pillow decodes the built-in font anew on each call.
    return ImageFont.load_default(size=TEXT_SIZE)
