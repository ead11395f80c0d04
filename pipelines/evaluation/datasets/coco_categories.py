"""The numbers that COCO's files give to its classes, as numbers of the class lists.

Sources: cocodataset/panopticapi, panoptic_coco_categories.json; nightrome/cocostuff, labels.md.
"""

from __future__ import annotations

_WITHOUT_PIXELS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Categories that were planned and never annotated: street sign, hat, shoe, eye glasses, plate, ..."""
_THINGS = tuple(category for category in range(1, 91) if category not in _WITHOUT_PIXELS)
_PANOPTIC_STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154),
    *(155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201)),
)

THINGS = {category: i for i, category in enumerate(_THINGS)}
"""The 80 things, by category id."""
PANOPTIC = {category: i for i, category in enumerate((*_THINGS, *_PANOPTIC_STUFF))}
"""The 80 things and the 53 kinds of stuff, some merged of several, by category id."""
STUFF = {category: i for i, category in enumerate((*_THINGS, *range(92, 183)))}
"""The 80 things and the 91 kinds of stuff, by category id; pixel maps store it less one."""
