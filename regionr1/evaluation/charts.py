"""Charts of a report: margins before and after (paper, figure 2), and risk by coverage."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from regionr1.evaluation.table import Outcome, by_method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"FULL": "#8a8a90", "REGION": "#d96c00"}
BLUE = "#2a6fb0"


def margin_scatter(outcomes: Sequence[Outcome], method: str = "policy") -> Image.Image | None:
    """Margin by the full image against margin by the chosen view, a point a query.

    A positive margin is a positive ranked first. Points above the diagonal gained, those in the
    upper left quarter were wrong and became right.

    Args:
        outcomes: Of all methods; runs tested before margins were kept have none.
        method: The row of the test table.

    Returns:
        None where no query has both margins.
    """
    methods = by_method(outcomes)
    full = methods.get("full", {})
    points: dict[str, list[tuple[float, float]]] = {}
    for key, chosen in methods.get(method, {}).items():
        margin = full[key].margin if key in full else None
        if margin is not None and chosen.margin is not None:
            points.setdefault(chosen.decision, []).append((margin, chosen.margin))
    if not points:
        return None
    figure = _figure(5.6, 5.2)
    axes = figure.subplots()
    low = min(x for found in points.values() for pair in found for x in pair)
    high = max(x for found in points.values() for pair in found for x in pair)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.plot([low, high], [low, high], color="#333", linewidth=0.8, linestyle=":")
    for decision, colour in COLOURS.items():
        if found := points.get(decision):
            label = f"{decision}, {len(found)} queries"
            before, after = zip(*found, strict=True)
            axes.scatter(before, after, s=12, color=colour, alpha=0.6, label=label)
    axes.set(xlabel="margin by the full image", ylabel=f"margin by the view of the row {method}")
    axes.legend(fontsize=9, loc="lower right")
    return _picture(figure)


def risk_chart(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Image.Image | None:
    """Share of wrong decisions among the surest ones, a line a policy.

    Args:
        curves: (coverage, risk) from the surest decision on, by name of the policy.
    """
    shown = {name: curve for name, curve in curves.items() if curve}
    if not shown:
        return None
    figure = _figure(5.6, 3.6)
    axes = figure.subplots()
    for (name, curve), colour in zip(shown.items(), (COLOURS["FULL"], BLUE), strict=False):
        axes.plot(*zip(*curve, strict=True), color=colour, label=name)
    axes.set(xlabel="share of queries decided, surest first", ylabel="wrong decisions")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9)
    return _picture(figure)


def _figure(width: float, height: float) -> "Figure":
    # Not pyplot: it would look for a screen and keep the figure.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _picture(figure: "Figure") -> Image.Image:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    out.seek(0)
    return Image.open(out).convert("RGB").quantize(64)
