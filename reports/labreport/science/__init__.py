"""From results to verdicts: statistics of a few seeds, the sources' figures and claims, the rules
that judge them, and the sentences and tables of the summary. Everything here reads the results
JSON alone; nothing trains, draws or writes."""

from labreport.science import conclusions, sources, statistics, summary
from labreport.science.claims import CLAIMS
from labreport.science.ledger import judge, ledger_frame, rules_frame

__all__ = [
    "CLAIMS", "conclusions", "judge", "ledger_frame", "rules_frame", "sources", "statistics",
    "summary",
]  # fmt: skip
