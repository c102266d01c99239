"""The retention plot is valid SVG that shows the quantiles, whatever the data are called."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from calib.retention import RetentionStatistics
from calib.retention_plot import write_retention_plot

SVG = "{http://www.w3.org/2000/svg}"


def plot(tmp_path: Path, rows: list[list[int]], data: str = "toy") -> ET.Element:
    """The parsed plot of these samples."""
    path = tmp_path / "retention.svg"
    write_retention_plot(RetentionStatistics(data=data, data_sha256="", checkpoint_sha256="", rows=rows), path)
    return ET.fromstring(path.read_text("utf-8"))


def test_there_is_a_panel_for_all_and_for_each_length_class(tmp_path: Path) -> None:
    svg = plot(tmp_path, [[10, 10, 5], [100, 50, 20], [110, 60, 10]])
    texts = [node.text for node in svg.iter(f"{SVG}text")]
    assert "10 to 110 tokens: 3 texts" in texts
    assert "10 to 10 tokens: 1 texts" in texts and "100 to 110 tokens: 2 texts" in texts
    assert len([node for node in svg.iter(f"{SVG}path") if node.get("class") == "median"]) == 3


def test_the_median_falls_from_the_length_to_what_is_left(tmp_path: Path) -> None:
    svg = plot(tmp_path, [[100, 50, 25]])
    median = next(node for node in svg.iter(f"{SVG}path") if node.get("class") == "median")
    heights = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", median.get("d") or "")]
    top, half, quarter = heights
    floor = 2 * half - top  # rows fall from 100 to 50 over half of the panel
    assert quarter == floor - (floor - top) / 4


def test_names_are_escaped(tmp_path: Path) -> None:
    svg = plot(tmp_path, [[4, 2]], data="<a & b>.tsv")
    assert "<a & b>.tsv" in (svg.findtext(f"{SVG}title") or "")
