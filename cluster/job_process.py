"""What runs on the cluster in place of ``clippy``: the same commands, with the job's environment variables set.

Ray shows the ``env_vars`` of a job's runtime environment to whoever asks for the job, and logs them on each node. So
the values that ``clippy cluster submit --env`` passes travel in a file of the job's package instead: the driver reads
it here, and Ray calls ``set_environment`` in each worker process before it does anything else.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ENVIRONMENT_FILE = ".clippy-job/environment.json"
SETUP_HOOK = "cluster.job_process.set_environment"


def set_environment() -> None:
    """Set what the package's file holds, if there is one; processes of a job start in the package's folder."""
    file = Path(ENVIRONMENT_FILE)
    if file.exists():
        os.environ.update(json.loads(file.read_text(encoding="utf-8"))["variables"])


def main() -> int:
    """Run ``clippy`` with this program's arguments."""
    set_environment()
    from cluster.cli import main as clippy

    return clippy()


if __name__ == "__main__":
    sys.exit(main())
