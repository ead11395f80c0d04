"""What a pass through a model makes a device do, and how long that takes one. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cluster.capacity.hardware import Device


@dataclass(frozen=True)
class Operation:
    """One kernel: its matrix products, the bytes it reads and writes, and the format of the products."""

    flops: int
    moved_bytes: int
    precision: str
    """``float32`` or ``bfloat16``."""


@dataclass(frozen=True)
class Work:
    """Operations, and how often each comes."""

    operations: Mapping[Operation, int]

    @cached_property
    def flops(self) -> int:
        """Of matrix products, a multiplication and an addition being two."""
        return sum(operation.flops * count for operation, count in self.operations.items())

    @cached_property
    def moved_bytes(self) -> int:
        """Read and written by what is no matrix product."""
        return sum(o.moved_bytes * count for o, count in self.operations.items() if not o.flops)

    @cached_property
    def kernels(self) -> int:
        """Operations in all."""
        return sum(self.operations.values())

    def __add__(self, other: Work) -> Work:
        both = dict(self.operations)
        for operation, count in other.operations.items():
            both[operation] = both.get(operation, 0) + count
        return Work(both)

    def longer(self, other: Work, times: int) -> Work:
        """This work and ``times`` what ``other`` has more of each operation."""
        names = self.operations.keys() | other.operations.keys()
        mine, theirs = self.operations, other.operations
        counts = {o: mine.get(o, 0) + times * (theirs.get(o, 0) - mine.get(o, 0)) for o in names}
        return Work({operation: count for operation, count in counts.items() if count})

    def seconds(self, device: Device) -> float:
        """On ``device``: each operation as fast as its products or its bytes allow, one after the other.

        What a GPU runs cannot be faster than the host launches it.
        """
        return max(self._busy_seconds(device), self.kernels * device.launch_seconds)

    def waits_for_host(self, device: Device) -> bool:
        """Whether launching takes longer than what is launched."""
        return self.kernels * device.launch_seconds > self._busy_seconds(device)

    def _busy_seconds(self, device: Device) -> float:
        total = 0.0
        for operation, count in self.operations.items():
            moving = operation.moved_bytes / device.bytes_per_second
            if operation.flops:
                moving = max(moving, operation.flops / device.matrix_flops[operation.precision])
            total += count * (moving + device.operation_seconds)
        return total
