"""python -m pipeline.report: one self-contained HTML file about an artifact."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    from pipeline.cli import main_of
    from pipeline.report.artifact import write_artifact_report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("report"),
        description="Writes one HTML file about an artifact that pipeline.build wrote: what the checks of the build "
        "found and what they could not check, the stages, the shapes, the timings and the versions. The file needs "
        "nothing else: no script, no network. Compares every file with its digest and loads no engine.",
        epilog="exit codes: 0 written, 2 no artifact, a damaged one, or the file cannot be written",
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write (default: ARTIFACT.report.html, beside the artifact)"
    )
    p.add_argument("--json", action="store_true", help="print the result as JSON")
    return p


def run(args: argparse.Namespace) -> int:
    """Writes the file and says where it is."""
    path = write_artifact_report(args.artifact, args.out)
    print(json.dumps({"report": str(path)}) if args.json else f"report: {path}")
    return 0


if __name__ == "__main__":
    main_of(parser, run)
