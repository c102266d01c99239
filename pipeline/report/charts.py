"""SVG charts: inline, no script, coloured by the style sheet of the page (classes s0, s1, ... by series)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from calib.retention import RetentionBin

_WIDTH = 420
_COLOURS = 4


@dataclass(frozen=True)
class Bar:
    """One bar: its value, the label at its end, and optionally a range for the whisker."""

    label: str
    value: float
    note: str
    span: tuple[float, float] | None = None
    promised: bool = False
    """Drawn hollow: a ratio that was counted, not measured."""


def series_class(index: int) -> str:
    """Returns the colour class of a series; the first one is the grey of the baseline."""
    return "s0" if index == 0 else f"s{(index - 1) % (_COLOURS - 1) + 1}"


def keep_ratio_chart(series: Mapping[str, Sequence[float]]) -> Markup:
    """Draws one line per name from the input (1.0) through the keep ratio of every layer; all are equally long."""
    left, right, top, bottom = 34, 296, 12, 182
    layers = max(len(values) for values in series.values())
    step = (right - left) / (layers + 1)

    def y_of(ratio: float) -> float:
        return bottom - (bottom - top) * ratio

    svg = _svg(222, "Keep ratio after the decision of each layer")
    for tick in range(5):
        y = y_of(tick / 4)
        _add(svg, "line", class_="grid", x1=left, x2=right, y1=y, y2=y)
        _add(svg, "text", f"{tick / 4:g}", class_="axis end", x=left - 6, y=y + 4)
    every = -(-layers // 12)
    for index, label in enumerate(["in", *map(str, range(layers))]):
        if index == 0 or (index - 1) % every == 0:
            _add(svg, "text", label, class_="axis mid", x=left + step * (index + 0.5), y=bottom + 17)
    _add(svg, "text", "layer", class_="axis mid", x=(left + right) / 2, y=bottom + 34)
    labels_at = _spread([y_of(values[-1]) for values in series.values()], gap=15)
    for index, (name, values) in enumerate(series.items()):
        path = f"M{left} {y_of(1):.1f}" + "".join(
            f"V{y_of(ratio):.1f}H{left + step * (column + 1):.1f}" for column, ratio in enumerate([1.0, *values])
        )
        _add(svg, "path", class_=f"line {series_class(index)}", d=path)
        label = f"{name} {values[-1]:.2f}"
        _add(svg, "text", label, class_=f"name {series_class(index)}", x=right + 6, y=labels_at[index] + 4)
    return _markup(svg)


def ratio_chart(groups: Mapping[str, Sequence[Bar]]) -> Markup:
    """Horizontal bars in groups, on one scale from 0, with a line at 1: the dense model."""
    left, right, row, heading = 104, 336, 22, 26
    ends = [end for group in groups.values() for bar in group for end in (bar.value, *(bar.span or ()))]
    scale = (right - left) / max([1.0, *ends])
    height = sum(heading + row * len(group) for group in groups.values()) + 26
    svg = _svg(height, "FLOPs ratio and measured time ratio of each method")
    y = 0.0
    for index, (name, group) in enumerate(groups.items(), start=1):
        _add(svg, "text", name, class_=f"name {series_class(index)}", x=0, y=y + 18)
        y += heading
        for bar in group:
            _add(svg, "text", bar.label, class_="axis end", x=left - 8, y=y + 14)
            kind = "bar promised" if bar.promised else "bar"
            size = {"x": left, "y": y + 3, "width": bar.value * scale, "height": row - 7}
            _add(svg, "rect", class_=f"{kind} {series_class(index)}", **size)
            end = bar.value
            if bar.span is not None:
                low, high = bar.span
                _add(
                    svg,
                    "line",
                    class_="whisker",
                    x1=left + low * scale,
                    x2=left + high * scale,
                    y1=y + 10.5,
                    y2=y + 10.5,
                )
                end = max(end, high)
            _add(svg, "text", bar.note, class_="note", x=left + end * scale + 6, y=y + 15)
            y += row
    one = left + scale
    _add(svg, "line", class_="one", x1=one, x2=one, y1=heading - 6, y2=y + 4)
    _add(svg, "text", "dense = 1", class_="axis mid", x=one, y=y + 19)
    return _markup(svg)


def retention_chart(part: RetentionBin) -> Markup:
    """Draws the rows after every layer's decision for texts of similar length: the median, and the ranges of 50 % and
    90 % of them.
    """
    left, right, top, bottom = 34, 404, 12, 152
    layers = len(part.mean) - 1
    step = (right - left) / layers

    def path_of(share: str) -> list[str]:
        rows = part.quantiles[share]
        return [
            f"{left + step * index:.1f} {bottom - (bottom - top) * count / part.longest:.1f}"
            for index, count in enumerate(rows)
        ]

    svg = _svg(192, f"Rows after the decision of each layer, texts of {part.shortest} to {part.longest} tokens")
    for share in (0, 0.5, 1):
        y = bottom - (bottom - top) * share
        _add(svg, "line", class_="grid", x1=left, x2=right, y1=y, y2=y)
        _add(svg, "text", f"{share * part.longest:.0f}", class_="axis end", x=left - 6, y=y + 4)
    for low, high, kind in (("0.05", "0.95", "most"), ("0.25", "0.75", "half")):
        outline = "L".join([*path_of(high), *reversed(path_of(low))])
        _add(svg, "path", class_=f"band {kind} s1", d=f"M{outline}Z")
    _add(svg, "path", class_="line s1", d="M" + "L".join(path_of("0.5")))
    for index in range(0, layers + 1, -(-(layers + 1) // 12)):
        label = "in" if index == 0 else str(index - 1)
        _add(svg, "text", label, class_="axis mid", x=left + step * index, y=bottom + 17)
    _add(svg, "text", "layer", class_="axis mid", x=(left + right) / 2, y=bottom + 34)
    return _markup(svg)


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Returns the positions moved upwards until neighbours are `gap` apart; the order stays."""
    moved = list(positions)
    order = sorted(range(len(moved)), key=lambda index: moved[index], reverse=True)
    for lower, upper in pairwise(order):
        moved[upper] = min(moved[upper], moved[lower] - gap)
    return moved


def _svg(height: float, title: str) -> ET.Element:
    svg = ET.Element("svg", {"viewBox": f"0 0 {_WIDTH} {height:g}", "role": "img", "aria-label": title})
    _add(svg, "title", title)
    return svg


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str | float) -> None:
    """Appends an element; `class_` is the attribute class."""
    values = {
        name.rstrip("_"): value if isinstance(value, str) else f"{value:.1f}" for name, value in attributes.items()
    }
    ET.SubElement(parent, tag, values).text = text


def _markup(svg: ET.Element) -> Markup:
    """Returns the element as markup; ElementTree escapes texts and attributes."""
    return Markup(ET.tostring(svg, encoding="unicode"))
