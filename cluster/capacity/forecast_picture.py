"""A forecast as a picture: speed by number of GPUs, what it loses to noise, and the hours of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.capacity.forecast import Forecast

_COLOURS = {
    "workers": "#2a7f3f",
    "decoding": "#c0392b",
    "reading": "#d68910",
    "network": "#7d3c98",
    "storage requests": "#2471a3",
}


def draw(forecast: Forecast, file: str) -> None:
    """Write the picture; the same forecast gives the same bytes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, rc_context

    with rc_context({"svg.hashsalt": "clippy", "font.size": 9}):
        figure, (speed, share, hours) = pyplot.subplots(1, 3, figsize=(13, 4))
        figure.suptitle(f"{forecast.recipe} on {forecast.device}, simulated with seed {forecast.seed}")
        _speed(speed, forecast)
        _share(share, forecast)
        _hours(hours, forecast)
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None} if file.endswith(".svg") else {"Software": None})
        pyplot.close(figure)


def _speed(axes: Any, forecast: Forecast) -> None:
    points = forecast.points
    gpus = [point.gpus for point in points]
    axes.loglog(gpus, [p.images_per_second for p in points], "-", color="grey", label="closed form")
    first = points[0]
    linear = [first.images_per_second * count / first.gpus for count in gpus]
    axes.loglog(gpus, linear, ":", color="lightgrey", label=f"as at {first.gpus} GPUs")
    for bound in dict.fromkeys(point.bound for point in points):
        bounded = [point for point in points if point.bound == bound]
        axes.loglog(
            [p.gpus for p in bounded],
            [p.simulated for p in bounded],
            "o",
            color=_COLOURS.get(bound, "black"),
            label=f"simulated, bound by {bound}",
        )
    _finish(axes, gpus, "images/s", "speed")


def _share(axes: Any, forecast: Forecast) -> None:
    gpus = [point.gpus for point in forecast.points]
    axes.semilogx(
        gpus, [100 * p.simulated / p.images_per_second for p in forecast.points], "o-", label="of closed form"
    )
    axes.semilogx(gpus, [100 * p.waited for p in forecast.points], "s-", label="waiting and stragglers, of the time")
    axes.set_ylim(0, 105)
    _finish(axes, gpus, "%", "what noise costs")


def _hours(axes: Any, forecast: Forecast) -> None:
    gpus = [point.gpus for point in forecast.points]
    for pairs in forecast.points[0].hours:
        axes.loglog(gpus, [p.hours[pairs] for p in forecast.points], "o-", label=f"{pairs / 1e9:g} billion pairs")
    _finish(axes, gpus, "hours, failures included", "a run")


def _finish(axes: Any, gpus: list[int], label: str, title: str) -> None:
    axes.set_xticks(gpus, [str(count) for count in gpus])
    axes.minorticks_off()
    axes.set_xlabel("GPUs")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
