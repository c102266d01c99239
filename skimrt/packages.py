"""SkimRT's other packages, whatever folders of the same names lie in the working directory."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
"""Where SkimRT's packages lie side by side."""


def own(*names: str) -> None:
    """Imports packages of SkimRT. Raises ImportError where another package of the name has been imported already.

    Python looks into the working directory, or that of the script, first: a user's folder `pipeline` would be taken.
    """
    sys.path.insert(0, str(HOME))
    try:
        for name in names:
            module = importlib.import_module(name)
            found = [Path(path).resolve() for path in module.__path__]
            if HOME / name not in found:
                raise ImportError(
                    f"skimrt: its own package {name!r} is needed, but another one of that name is imported already, "
                    f"from {', '.join(map(str, found))}; import skimrt first, or give that package another name"
                )
    finally:
        sys.path.remove(str(HOME))
