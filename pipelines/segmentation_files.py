"""Where the mask and the drawing of each picture go, and that they can go there, before anything is computed."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clippy.segmentation import Segmentation
from pipelines.pictures import SUFFIXES, NamedPicture
from pipelines.storage import Location, explain, locate


@dataclass(frozen=True)
class ResultFiles:
    """The files of one picture's segmentation."""

    mask: Location
    drawing: Location

    def write(self, segmentation: Segmentation) -> None:
        """Both files, each whole or not at all. Raises ValueError where one cannot be written."""
        write_picture(self.mask, segmentation.mask())
        write_picture(self.drawing, segmentation.drawing())


def plan_files(pictures: Sequence[NamedPicture], out: str) -> list[ResultFiles]:
    """Files for each picture: ``out`` itself where it is a PNG's name, else two in the folder or URL ``out``.

    There a picture ``dog.jpg`` gets ``dog-mask.png`` and ``dog.png``; where one of these is taken by another picture of
    this call, ``dog-2-mask.png`` and ``dog-2.png``. Raises ValueError for a file's name with several pictures or of no
    PNG, a place that cannot be written, and a result that would replace one of the pictures.
    """
    place = locate(out)
    if _is_file_name(out, place):
        if len(pictures) > 1:
            raise ValueError(f"--out: {out} is one file, and there are {len(pictures)} pictures; name a folder")
        stem = out[: -len(".png")]
        files = [ResultFiles(place, locate(f"{stem}-legend.png"))]
    else:
        files = _in_folder(pictures, place)
    require_places([location for result in files for location in (result.mask, result.drawing)], pictures)
    return files


def require_places(places: Sequence[Location], pictures: Sequence[NamedPicture]) -> None:
    """Raises ValueError for a local file that cannot be written, or that is one of the pictures."""
    inputs = {os.path.realpath(picture.file) for picture in pictures}
    for location in places:
        if location.is_local:
            if os.path.realpath(location.path) in inputs:
                raise ValueError(f"--out: {location.url} is one of the pictures and would be lost; name another place")
            _require_writable(location)


def write_picture(place: Location, picture: Image.Image) -> None:
    """A PNG, whole or not at all. Raises ValueError where it cannot be written."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    try:
        place.write_bytes(content.getvalue())
    except OSError as error:
        raise ValueError(f"--out: {place.url}: cannot be written: {explain(error) or error}") from None


def _is_file_name(out: str, place: Location) -> bool:
    suffix = os.path.splitext(out)[1].lower()
    if suffix not in SUFFIXES or (place.is_local and os.path.isdir(place.path)):
        return False
    if suffix != ".png":
        raise ValueError(f"--out: {out}: a mask is a PNG, for others blur its ids; end the name with .png")
    return True


def _in_folder(pictures: Sequence[NamedPicture], folder: Location) -> list[ResultFiles]:
    taken: set[str] = set()
    files = []
    for picture in pictures:
        stem, number = picture.stem, 1
        while taken & {name.casefold() for name in _names(stem)}:  # some file systems know no case
            number += 1
            stem = f"{picture.stem}-{number}"
        mask, drawing = _names(stem)
        taken |= {mask.casefold(), drawing.casefold()}
        files.append(ResultFiles(folder / mask, folder / drawing))
    return files


def _names(stem: str) -> tuple[str, str]:
    return f"{stem}-mask.png", f"{stem}.png"


def _require_writable(location: Location) -> None:
    path = Path(location.path)
    if path.is_dir():
        raise ValueError(f"--out: {location.url} is a folder, where a result has to go; move it or name another place")
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise ValueError(f"--out: {location.url}: cannot be written, {folder} is no folder; name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--out: {location.url}: no permission to write in {folder}; name another place")
