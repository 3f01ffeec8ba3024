"""From executed notebooks to one HTML and one PDF file: nbconvert's exporters and what they need.

merge joins notebooks, weave settles numbers and references, exporters write the files.
"""
