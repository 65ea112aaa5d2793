"""The report: one self-contained page of tables and pictures, and the verdict as text for the terminal.

matplotlib is imported when a picture is drawn, so that importing this package stays cheap.
"""

from nanomd.kinetics.table import verdict_text
from nanomd.report.figures import ReportFigure
from nanomd.report.page import write_report

__all__ = ["ReportFigure", "verdict_text", "write_report"]
