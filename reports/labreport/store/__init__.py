"""The run store: trainings and evaluations kept on the disk, resumed, proven current.

It needs torch, safetensors and filelock, nothing of notebooks: a GPU machine runs it as it is.
"""

from labreport.store.evaluation import evaluation
from labreport.store.runs import Run, find_run
from labreport.store.train import pretrain

__all__ = ["Run", "evaluation", "find_run", "pretrain"]
