"""skimrt VERB ...: the command line, the same as `python -m pipeline.VERB ...`."""

from __future__ import annotations

import sys

from skimrt.packages import HOME

sys.path.insert(0, str(HOME))  # in front of the working directory, which may have a folder named pipeline

from pipeline.__main__ import main as verbs


def main() -> None:
    """Runs a verb, or lists them."""
    verbs("skimrt")


if __name__ == "__main__":
    main()
