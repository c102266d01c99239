"""The retention plot: one self-contained SVG with the quantiles of the rows behind every layer, by input length."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from calib.retention import RetentionBin, RetentionStatistics

_PANEL, _HEIGHT, _LEFT, _TOP = 176, 132, 40, 44
_BANDS = (("0.05", "0.95", "wide"), ("0.25", "0.75", "narrow"))
_STYLE = (
    "text{font:11px sans-serif;fill:#333}.title{font-size:13px}.grid{stroke:#ddd}.median{fill:none;stroke:#1f6f8b;"
    "stroke-width:2}.wide{fill:#cfe3ea}.narrow{fill:#92c1d0}.end{text-anchor:end}.mid{text-anchor:middle}"
)


def write_retention_plot(statistics: RetentionStatistics, path: Path) -> None:
    """Writes the plot: a panel for all samples and one for each length class, rows over the layers.

    Drawn are the median and the bands of 50 % and 90 % of the samples; "in" is the real length.
    """
    panels = statistics.bins
    width = _LEFT + len(panels) * (_PANEL + _LEFT)
    svg = ET.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {_TOP + _HEIGHT + 40}", "role": "img"},
    )
    ET.SubElement(svg, "title").text = f"Rows behind the decision of each layer, {statistics.data}"
    ET.SubElement(svg, "style").text = _STYLE
    heading = f"Rows behind each layer: median, 50 % and 90 % of {len(statistics.rows)} texts of {statistics.data}"
    _text(svg, heading, _LEFT, 16, "title")
    for index, panel in enumerate(panels):
        _draw(svg, panel, _LEFT + index * (_PANEL + _LEFT))
    path.write_text(ET.tostring(svg, encoding="unicode") + "\n", "utf-8")


def _draw(svg: ET.Element, panel: RetentionBin, left: float) -> None:
    """One panel; its scale ends at the longest text of the class."""
    bottom, points = _TOP + _HEIGHT, len(panel.mean)

    def x_of(place: int) -> float:
        return left + _PANEL * place / (points - 1)

    def y_of(rows: float) -> float:
        return bottom - _HEIGHT * rows / panel.longest

    _text(svg, f"{panel.shortest} to {panel.longest} tokens: {panel.samples} texts", left, _TOP - 8)
    for share in (0.0, 0.5, 1.0):
        y = y_of(share * panel.longest)
        line = {"class": "grid", "x1": f"{left:.1f}", "x2": f"{left + _PANEL:.1f}", "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
        ET.SubElement(svg, "line", line)
        _text(svg, f"{share * panel.longest:.0f}", left - 4, y + 4, "end")
    for low, high, kind in _BANDS:
        upper = [(x_of(place), y_of(rows)) for place, rows in enumerate(panel.quantiles[high])]
        lower = [(x_of(place), y_of(rows)) for place, rows in enumerate(panel.quantiles[low])]
        ET.SubElement(svg, "path", {"class": kind, "d": _path([*upper, *reversed(lower)]) + "Z"})
    median = [(x_of(place), y_of(rows)) for place, rows in enumerate(panel.quantiles["0.5"])]
    ET.SubElement(svg, "path", {"class": "median", "d": _path(median)})
    every = -(-points // 8)
    for place in range(0, points, every):
        _text(svg, "in" if place == 0 else str(place - 1), x_of(place), bottom + 16, "mid")
    _text(svg, "layer", left + _PANEL / 2, bottom + 32, "mid")


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _text(svg: ET.Element, text: str, x: float, y: float, kind: str = "") -> None:
    ET.SubElement(svg, "text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}"}).text = text
