"""The charts: lengths and heights on one scale, and labels that do not overlap."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from calib.retention import RetentionStatistics
from pipeline.report.charts import Bar, keep_ratio_chart, ratio_chart, retention_chart


def numbers(svg: str, tag: str, name: str) -> list[float]:
    """An attribute of every element of that tag."""
    return [float(value) for value in re.findall(rf'<{tag} [^>]*?\b{name}="([\d.]+)"', svg)]


def test_bars_are_as_long_as_their_values_and_whiskers_lie_on_the_same_scale() -> None:
    bars = [Bar("FLOPs", 2.0, "2.00×", promised=True), Bar("time", 1.5, "1.50×", (1.0, 3.0)), Bar("slow", 0.5, "0.50×")]
    svg = ratio_chart({"a method": bars})
    lengths = numbers(svg, "rect", "width")
    assert [round(length / lengths[0], 2) for length in lengths] == [1.0, 0.75, 0.25]
    start, (low, one), (high, _) = numbers(svg, "rect", "x")[0], numbers(svg, "line", "x1"), numbers(svg, "line", "x2")
    assert low == one == pytest.approx(start + lengths[0] / 2, abs=0.1)
    assert high == pytest.approx(start + 1.5 * lengths[0], abs=0.1)


def test_the_keep_ratio_falls_on_the_axis_and_labels_never_overlap() -> None:
    svg = keep_ratio_chart({"dense": [1.0, 1.0], "a": [0.5, 0.25], "b": [0.5, 0.25]})
    ticks = numbers(svg, "line", "y1")  # 0, 0.25, ... 1
    levels = [[float(y) for y in re.findall(r"V([\d.]+)", path)] for path in re.findall(r' d="([^"]+)"', svg)]
    assert levels[0] == [ticks[4]] * 3
    assert levels[1] == [ticks[4], ticks[2], ticks[1]]
    names = sorted(float(y) for y in re.findall(r'class="name [^>]* y="([\d.]+)"', svg))
    assert len(names) == 3 and min(b - a for a, b in pairwise(names)) >= 15


def test_the_median_of_rows_falls_from_the_length_to_what_is_left_within_its_bands() -> None:
    rows = [[100, 50, 25], [100, 60, 30], [100, 40, 20]]
    statistics = RetentionStatistics(data="toy", data_sha256="", checkpoint_sha256="", rows=rows)
    svg = retention_chart(statistics.bins[0])
    bottom, half, top = numbers(svg, "line", "y1")
    paths = {
        kind: [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", d)]
        for kind, d in re.findall(r'<path class="([^"]+)" d="([^"]+)"', svg)
    }
    assert paths["line s1"] == [top, half, (half + bottom) / 2]
    assert paths["band most s1"][:3] == [
        top,
        pytest.approx(bottom - 0.6 * (bottom - top)),
        pytest.approx(bottom - 0.3 * (bottom - top)),
    ]
    assert paths["band most s1"][3:] == [
        pytest.approx(bottom - 0.2 * (bottom - top)),
        pytest.approx(bottom - 0.4 * (bottom - top)),
        top,
    ]
