"""Commands beside the report: compare, adopt, lab, update-references, curves, the README's block.

Each module is one command; finished_report reads what compare is given.
"""
