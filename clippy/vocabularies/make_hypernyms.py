"""Write ``hypernyms.json`` anew, after the synset of a class changed.

    python -m clippy.vocabularies.make_hypernyms /usr/share/wordnet

The folder holds WordNet 3.0's ``index.noun`` and ``data.noun`` (Debian: package wordnet-base; format: man 5 wndb).
It must be 3.0, whose numbers ImageNet's folders are; 3.1 has others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clippy.vocabulary import HYPERNYMS_FILE, class_list, class_list_names

SOURCE = (
    "WordNet 3.0: the synsets of all class lists beside this file and their hypernyms (pointer @), in WordNet's order. "
    "A node is named by its first word, part of speech and number of the sense; wnid is its number."
)
LICENCE = (
    "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. This software and database is being "
    "provided to you, the LICENSEE, by Princeton University under the following license. By obtaining, using and/or "
    "copying this software and database, you agree that you have read, understood, and will comply with these terms "
    "and conditions.: Permission to use, copy, modify and distribute this software and database and its documentation "
    "for any purpose and without fee or royalty is hereby granted, provided that you agree to comply with the "
    "following copyright notice and statements, including the disclaimer, and that the same appear on ALL copies of "
    "the software, database and documentation, including modifications that you make for internal use or for "
    'distribution. THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS '
    "OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO "
    "REPRESENTATIONS OR WARRANTIES OF MERCHANT- ABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE "
    "LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS "
    "OR OTHER RIGHTS. The name of Princeton University or Princeton may not be used in advertising or publicity "
    "pertaining to distribution of the software and/or database. Title to copyright in this software, database and "
    "any associated documentation shall at all times remain with Princeton University and LICENSEE agrees to preserve "
    "same."
)


def hypernym_nodes(folder: Path, synsets: Iterable[str]) -> dict[str, Any]:
    """The synsets and all that is above them: name -> ``wnid``, ``word`` and the names of its ``parents``.

    Raises ValueError for a name that the WordNet in ``folder`` does not have.
    """
    senses = {fields[0]: fields[-int(fields[2]) :] for fields in _lines(folder / "index.noun")}
    words: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    for fields in _lines(folder / "data.noun"):
        offset, num_words = fields[0], int(fields[3], 16)
        words[offset] = fields[4]
        pointers = fields[5 + 2 * num_words :]
        kinds_and_offsets = zip(pointers[0::4], pointers[1::4], strict=False)
        parents[offset] = [target for kind, target in kinds_and_offsets if kind == "@"]

    def name(offset: str) -> str:
        word = words[offset].lower()
        return f"{word}.n.{senses[word].index(offset) + 1:02d}"

    offset_of = {name(offset): offset for offset in words}
    unknown = sorted(set(synsets) - offset_of.keys())
    if unknown:
        raise ValueError(f"{folder}: this WordNet has no {', '.join(unknown)}; give a folder of WordNet 3.0")
    nodes: dict[str, Any] = {}
    left = sorted(set(synsets))
    while left:
        node = left.pop()
        if node not in nodes:
            above = [name(parent) for parent in parents[offset_of[node]]]
            word = words[offset_of[node]].replace("_", " ")
            nodes[node] = {"wnid": f"n{offset_of[node]}", "word": word, "parents": above}
            left += above
    return dict(sorted(nodes.items()))


def _lines(file: Path) -> Iterable[list[str]]:
    """Fields of each line but the licence, whose lines begin with two blanks; glosses follow a bar."""
    for line in file.read_text(encoding="ascii").splitlines():
        if not line.startswith("  "):
            yield line.partition(" | ")[0].split()


def main(folder: Path) -> None:
    """Write the file beside this program."""
    synsets = {synset for name in class_list_names() for synset in class_list(name).hypernyms}
    nodes = hypernym_nodes(folder, synsets)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(node)}" for name, node in nodes.items())
    head = f' "source": {json.dumps(SOURCE)},\n "licence": {json.dumps(LICENCE)},\n'
    text = f'{{\n{head} "nodes": {{\n{lines}\n }}\n}}\n'
    (Path(__file__).parent / HYPERNYMS_FILE).write_text(text, encoding="utf-8")
    print(f"{HYPERNYMS_FILE}: {len(nodes)} synsets, {len(synsets)} of them of classes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
