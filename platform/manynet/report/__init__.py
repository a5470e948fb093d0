"""A study in one HTML file that opens without a network."""

from manynet.report.content import ReportContent, ReportError
from manynet.report.page import render, write_report

__all__ = ["ReportContent", "ReportError", "render", "write_report"]
