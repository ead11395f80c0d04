"""Storage that stutters: an epoch is complete and right, and no request asks what the manifest knows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from pipelines.storage import locate
from tests.pipelines.test_stream import assert_equal, make_job, stream

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_an_epoch_through_faults_is_that_of_a_disk_and_needs_no_listing(
    storage_proxy: ModuleType, overrides: list[str], shapes: Path, s3: str
) -> None:
    bucket = locate("s3://bucket/faulty/train")
    for file in sorted((shapes / "train").glob("[0-9]*.parquet")):
        (bucket / file.name).write_bytes(file.read_bytes())
    here = make_job(overrides)
    local = stream(here, 2, 0, 7)
    faults = ("503", "reset", "truncate")
    with storage_proxy.start_proxy(s3, fail_every=3, faults=faults) as endpoint:
        remote = ["data.url=s3://bucket/faulty/train", f'data.storage_options={{"endpoint_url": "{endpoint}"}}']
        job = make_job(overrides, *remote, "name=faulty")
        storage_proxy.read_counts(endpoint, reset=True)
        batches = stream(job, 2, 0, 7)
        counts = storage_proxy.read_counts(endpoint)
    assert job.source.digest == here.source.digest
    assert counts["list"] == counts["head"] == counts["get"] == 0
    assert all(counts["faults"][fault] for fault in faults), counts
    keys = sorted(key for worker in batches for batch in worker for key in batch.keys)
    assert keys == sorted(key for worker in local for batch in worker for key in batch.keys)
    assert len(set(keys)) == 200
    for ours, theirs in zip(local, batches, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.keys == b.keys
            assert_equal(a, b)
            assert not b.count_causes()[1:].any()
