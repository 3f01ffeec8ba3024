"""What a notebook calls: its Lab, figures and tables, and the arithmetic of seeds.

study is the workplace, display shows, figures draws; measurements are labreport.measure's.
"""

from labreport.notebook import figures
from labreport.notebook.display import say, show_figure, show_table
from labreport.notebook.study import (
    Lab,
    after,
    each_seed,
    few_labels,
    loading_code,
    mean_of,
    mean_of_draws,
    per_class,
    pick,
)

__all__ = [
    "Lab",
    "after",
    "each_seed",
    "few_labels",
    "figures",
    "loading_code",
    "mean_of",
    "mean_of_draws",
    "per_class",
    "pick",
    "say",
    "show_figure",
    "show_table",
]
