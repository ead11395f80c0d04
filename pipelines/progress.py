"""A running training in one line."""

from __future__ import annotations

from typing import Any

from pipelines.console import duration
from pipelines.recipe import Recipe


def progress_line(recipe: Recipe, record: dict[str, Any]) -> str:
    """The latest step in one line."""
    invalid = sum(record["invalid_rows"].values())
    by_cause = ", ".join(f"{cause} {n}" for cause, n in record["invalid_rows"].items())
    return (
        f"step {record['step']}/{recipe.train.steps}  loss {_number(record['loss'], '.3f')}  "
        f"{record['images_per_second']:.0f} images/s  data wait {record['data_wait_fraction']:.0%}  "
        f"lr {record['learning_rate']:.2e}  scale {_number(record['logit_scale'], '.1f')}"
        + (f"  skipped {record['skipped_steps']}" if record["skipped_steps"] else "")
        + (f"  invalid {invalid} ({by_cause})" if invalid else "")
        + f"  {duration(record['seconds_left'])} left"
    )


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
