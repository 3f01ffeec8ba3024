"""The lab report: what notebooks show, and how executed notebooks become one HTML and one PDF file."""

from labreport.display import say, show_figure, show_table

__all__ = ["say", "show_figure", "show_table"]
