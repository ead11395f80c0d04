"""The keys of each step's pairs, as each worker took them: proof of what a run was trained on.

``ledger/ATTEMPT-START-RANK-FIRST.jsonl``: one line a step. An attempt that goes on from an earlier step takes back the
lines of all steps after it, as its weights take back what was learned from them.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque

from pipelines.run_folder import RunFolder

LEDGER = "ledger"


class LedgerFile:
    """One worker's lines of one attempt, a file for each checkpoint; one thread may add while another flushes."""

    def __init__(self, folder: RunFolder, attempt: int, start: int, rank: int) -> None:
        self._folder = folder.location / LEDGER
        self._prefix = f"{attempt:04d}-{start:08d}-{rank:05d}"
        self._entries: deque[tuple[int, str]] = deque()

    def add(self, step: int, keys: list[str]) -> None:
        """This worker's keys of one step."""
        self._entries.append((step, json.dumps({"step": step, "keys": keys}) + "\n"))

    def flush(self) -> None:
        """Write the lines since the last call; those that could not be written stay for the next one."""
        entries = list(self._entries)
        if entries:
            name = f"{self._prefix}-{entries[0][0]:08d}.jsonl"
            (self._folder / name).write_text("".join(line for _, line in entries))
        for _ in entries:
            self._entries.popleft()


def read_ledger(folder: RunFolder) -> dict[int, list[str]]:
    """Step -> the keys of its pairs over all workers, of the attempt that counts."""
    attempts: dict[tuple[int, int], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for info in (folder.location / LEDGER).list():
        attempt, start = info.base_name.split("-")[:2]
        for line in (folder.location / LEDGER / info.base_name).read_text().splitlines():
            entry = json.loads(line)
            attempts[int(attempt), int(start)][entry["step"]] += entry["keys"]
    ledger: dict[int, list[str]] = {}
    for (_, start), steps in sorted(attempts.items()):
        ledger = {step: keys for step, keys in ledger.items() if step <= start} | dict(steps)
    return ledger
