"""Fills a template of this package and writes the page."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engines.errors import InputError
from engines.version import __version__
from engines.writing import output_file

_METHODS = {"ltp": "LTP", "transkimmer": "Transkimmer"}


def write_page(template: str, path: Path, **content: object) -> Path:
    """Writes the page to `path`, whose directory is made if need be, and returns it.

    Every value is escaped unless it is a chart of `charts`. Raises InputError when `path` cannot be written.
    """
    html = _environment().get_template(template).render(version=__version__, **content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with output_file(path) as file:
            file.write(html.encode("utf-8", "replace"))  # a path's name may hold bytes that are no text
    except OSError as error:
        raise InputError(f"report {path}: cannot be written: {error.strerror or error}; choose another file") from None
    return path


def method_name(method: str) -> str:
    """Returns a method's name as people write it."""
    return _METHODS.get(method, method)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"method": method_name, "figure": _figure, "short": lambda digest: f"{digest[:12]}…"}
    return environment


def _figure(value: float | int | str) -> str:
    """A figure of a gate: floats to four significant digits, whole numbers in groups of three."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
