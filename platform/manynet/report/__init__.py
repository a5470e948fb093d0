"""HTML reports of a study or a sweep, each in one file that opens offline."""

from manynet.report.content import ReportContent, ReportError
from manynet.report.page import render, write_report
from manynet.report.sweep_page import write_sweep_report

__all__ = ["ReportContent", "ReportError", "render", "write_report", "write_sweep_report"]
