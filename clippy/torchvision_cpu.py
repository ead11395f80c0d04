"""Lets timm import torchvision where torchvision's compiled library was built for another torch.

PyPI's torchvision wheels are built against the CUDA torch. Beside a CPU build of the same version their
``_C.so`` cannot load, so the operators that ``torchvision/_meta_registrations.py`` decorates do not exist and the
import fails with "operator torchvision::nms does not exist". timm needs torchvision only for its data
transforms, which are Python; declaring the two schemas is enough. Where the library loads, nothing is done.
"""

from __future__ import annotations

import sys

import torch

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def ensure_torchvision() -> None:
    """Import torchvision, declaring its two missing operators first if its own library could not."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # the failed import left half of the package behind
        for operator, schema in _SCHEMAS.items():
            torch.library.define(operator, schema)
        import torchvision  # noqa: F401
