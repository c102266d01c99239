"""The HTML report: one self-contained file for a demo's record or for an artifact."""

from pipeline.report.artifact import write_artifact_report
from pipeline.report.demo import write_demo_report

__all__ = ["write_artifact_report", "write_demo_report"]
