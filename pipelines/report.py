"""A run as one self-contained HTML page: how it ended, numbers beside trivial answers, pictures, curves, the recipe."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from clippy.config import ConfigError
from pipelines.console import duration
from pipelines.evaluation.result import PICTURES, Picture, Result
from pipelines.evaluation.subject import newest_results
from pipelines.run_folder import SUMMARY_FILE, RunFolder
from pipelines.storage import Location, locate
from pipelines.timing import PHASES
from pipelines.web_page import section, text, web_page

REPORT_FILE = "report.html"


def write_report(run: str, out: str | None = None) -> str:
    """Write the page of the run in folder ``run``, and return where it lies.

    Raises ConfigError if there is no run, or it has not taken a step yet.
    """
    folder = RunFolder(locate(run))
    recipe = folder.read_recipe()
    records = folder.read_metrics()
    if not records:
        raise ConfigError(run, ["this run has no finished step to report; go on with: clippy train"])
    page = locate(out) if out else folder.location / REPORT_FILE
    sections = [
        section("How it went", _facts(folder.read_json(SUMMARY_FILE), records)),
        *_evaluation_sections(folder),
        section("Curves", _curves(records)),
        section("Recipe", f"<pre>{escape(recipe.to_yaml())}</pre>"),
    ]
    title = f"{recipe.name}: CLIPpy run"
    page.write_text(web_page(title, _STYLE, "\n".join([f"<h1>{text(title)}</h1>", *sections])))
    return page.url


def _facts(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    if not summary:
        facts = {"status": "running or interrupted", "step": records[-1]["step"], "loss": _loss(records[-1]["loss"])}
        return _table(["", ""], facts.items())
    facts = {
        "status": summary["status"],
        "steps": f"{summary['step']:,} of {summary['steps']:,}",
        "pairs seen": f"{summary['rows_seen']:,} ({summary['epochs']:.1f} epochs)",
        "last loss": _loss(summary["loss"]),
        "best checkpoint": f"step {summary['best_step']:,}, {summary['best_value']:.4f}"
        if summary["best_step"]
        else "",
        "health": _by_cause({name: summary[name] for name in _HEALTH if summary[name]}),
        "invalid rows": _by_cause(summary["invalid_rows"]),
        "rows left out by the index": _by_cause(summary["excluded_rows"]),
        "time of the last start": duration(summary["seconds"]),
        "speed": f"{summary['images_per_second']:.0f} images/s" if summary["images_per_second"] else "",
        "waiting for data": f"{summary['data_wait_fraction']:.0%}" if summary["images_per_second"] else "",
        "what bounds it": summary["verdict"] or "",
        "checkpoint": summary["checkpoint"],
        "data": f"manifest {summary['manifest_digest'][:12]}",
        "MLflow": f"run {summary['mlflow_run_id']} in {summary['mlflow_uri']}" if summary["mlflow_run_id"] else "off",
    }
    return _table(["", ""], facts.items())


_HEALTH = ("skipped_steps", "rollbacks", "loss_spikes")


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def _by_cause(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{cause.replace('_', ' ')} {n:,}" for cause, n in counts.items()) or "none"


def _evaluation_sections(folder: RunFolder) -> list[str]:
    """Tables and pictures of all evaluations of the newest checkpoint that was evaluated."""
    sections = []
    for location, result in newest_results(folder):
        step = "" if result.step is None else f" at step {result.step:,}"
        sections.append(section(f"Evaluation on {result.benchmark}{step}", _evaluation_tables(result)))
        if result.pictures:
            note = (
                "<p>Left the picture, then what the model says, then the truth. The model was trained on pictures with "
                "captions; it never saw a mask. Names are coloured by free words, groups are found without words.</p>"
            )
            drawn = _gallery(location / PICTURES, result.pictures)
            sections.append(section(f"Pictures of {result.benchmark}", note + drawn))
    return sections


def _evaluation_tables(result: Result) -> str:
    images = ", ".join(f"{count:,} {part}" for part, count in result.images.items())
    tables = "\n".join(
        f"<h3>{escape(title[0].upper() + title[1:])}</h3>{_numbers(rows)}" for title, rows in result.tables.items()
    )
    choices = _table(["", ""], result.protocol.items())
    return f"<p>Pictures: {escape(images)}.</p>{tables}<details><summary>Protocol</summary>{choices}</details>"


def _numbers(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    body = ([name, *(f"{row[c]:.3f}" if c in row else "" for c in columns)] for name, row in rows.items())
    return _table(["answer", *columns], body, highlight=next(iter(rows)))


def _table(head: Sequence[str], rows: Iterable[Iterable[Any]], highlight: str | None = None) -> str:
    heading = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = []
    for row in rows:
        cells = [escape(str(cell)) for cell in row]
        mark = ' class="ours"' if highlight is not None and cells[0] == highlight else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    top = f"<thead><tr>{heading}</tr></thead>" if any(head) else ""
    return f"<table>{top}<tbody>{''.join(lines)}</tbody></table>"


def _gallery(folder: Location, pictures: Sequence[Picture]) -> str:
    images = []
    for picture in pictures:
        content = base64.b64encode((folder / picture.file).read_bytes()).decode()
        role = "" if picture.role == "sample" else f", among the {picture.role}"
        images.append(
            f'<figure><img alt="{escape(picture.caption)}" src="data:image/png;base64,{content}">'
            f"<figcaption>{escape(f'{picture.table}{role}: {picture.caption}')}</figcaption></figure>"
        )
    return f'<div class="gallery">{"".join(images)}</div>'


_CURVES = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "logit_scale": "logit scale",
    "learning_rate": "learning rate",
    "images_per_second": "images/s",
}


def _curves(records: Sequence[Mapping[str, Any]]) -> str:
    """Small charts over steps as one inline SVG; the last says where the time of a step went."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = list(figure.subplots(2, 3).flat)
    for axis, (name, title) in zip(axes, _CURVES.items(), strict=False):
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        axis.plot([step for step, _ in points], [value for _, value in points], color="#2a6f97", linewidth=1.2)
        axis.set_title(title, fontsize=10)
    _draw_phases(axes[-1], [record for record in records if "phases" in record])
    for axis in axes:
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    stream = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # else the page would carry foreign addresses
    FigureCanvasSVG(figure).print_svg(stream, metadata=no_metadata)
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def _draw_phases(axis: Any, records: Sequence[Mapping[str, Any]]) -> None:
    shown = [name for name in PHASES if any(record["phases"][name] > 0 for record in records)]
    seconds = [[record["phases"][name] for record in records] for name in shown]
    axis.stackplot([record["step"] for record in records], seconds, labels=[name.replace("_", " ") for name in shown])
    axis.legend(fontsize=6, loc="upper right", reverse=True)
    axis.set_title("seconds of a step", fontsize=10)


_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; }
h1, h2, h3 { line-height: 1.2; }
h3 { margin-bottom: 0; }
p { color: #555; margin: .2em 0 .6em; max-width: 50em; }
table { border-collapse: collapse; margin-bottom: 1em; }
th, td { text-align: left; padding: .2em 1.2em .2em 0; border-bottom: 1px solid #e3e3e3; }
tr.ours td { font-weight: 600; background: #eef6fb; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 1em; }
figure { margin: 0; }
figure img { max-width: 100%; }
figcaption { color: #777; font-size: 13px; }
svg { max-width: 100%; height: auto; }
"""
