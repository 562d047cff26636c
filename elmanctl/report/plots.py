"""The report's plots as PNG files, by matplotlib where it is installed."""

from pathlib import Path

from elmanctl.errors import UserError
from elmanctl.report.collect import Collected
from elmanctl.report.curves import curve, front
from elmanctl.report.html import COLOURS
from elmanctl.report.rows import Report

AXES = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}


def write(report: Report, collected: Collected, folder: Path) -> list[Path]:
    """Write loss against steps, tokens and seconds, and loss against throughput; return the files.

    Raises:
        UserError: without matplotlib, or where the folder cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"--png needs matplotlib, which cannot be imported here ({error}). pip install 'elmanctl[plots]'; --html needs nothing."
        ) from None
    colours = {row.label: COLOURS[i % len(COLOURS)] for i, row in enumerate(report.rows)}
    curves = [(e.name, e.row.label, curve(e)) for e in collected.entries if e.series]
    paths = []

    def figure(name: str, across: str, up: str, draw) -> None:
        made = Figure(figsize=(9, 5.5), layout="constrained")
        FigureCanvasAgg(made)
        axes = made.add_subplot(xlabel=across, ylabel=up)
        axes.grid(alpha=0.3)
        draw(axes)
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made.savefig(path, dpi=150)
        except OSError as error:
            raise UserError(
                f"{path} could not be written: {error.strerror or error}. Choose another --png folder."
            ) from None
        paths.append(path)

    def losses(key: str):
        def draw(axes) -> None:
            low, high = [], []
            for name, label, points in curves:
                axes.plot(points[key], points["loss"], color=colours[name], lw=1.2, label=label)
                settled = points["loss"][len(points["loss"]) // 5 :]
                low.append(min(settled))
                high.append(max(settled))
            if curves:
                axes.set_ylim(min(low) * 0.98, max(high) * 1.02)
                axes.legend(fontsize=7)

        return draw

    def scatter(axes) -> None:
        axes.margins(x=0.15)
        rows = [r for r in report.rows if r.last100_loss is not None and r.tokens_per_second is not None]
        for r in rows:
            error = None if r.low is None else [[r.last100_loss - r.low], [r.high - r.last100_loss]]
            axes.errorbar(r.tokens_per_second, r.last100_loss, error, fmt="o", color=colours[r.label])
            axes.annotate(
                r.label, (r.tokens_per_second, r.last100_loss), xytext=(6, 4), textcoords="offset points", fontsize=8
            )
        best = front(report)
        line = sorted((r.tokens_per_second, r.last100_loss) for r in rows if r.label in best)
        axes.plot(*zip(*line, strict=True) if line else ([], []), ls="--", color="gray", lw=1)

    for name, key in AXES.items():
        figure(
            f"loss_{name}",
            "seconds of training" if key == "seconds" else name,
            "training loss, nats per byte",
            losses(key),
        )
    figure("throughput_loss", "target tokens per second", "last-100 loss, nats per byte", scatter)
    return paths
