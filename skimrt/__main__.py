"""skimrt VERB ...: the command line, the same as `python -m pipeline.VERB ...`."""

from __future__ import annotations

from pipeline.__main__ import main as verbs


def main() -> None:
    """Runs a verb, or lists them."""
    verbs("skimrt")


if __name__ == "__main__":
    main()
