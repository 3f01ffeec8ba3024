"""What executes the notebooks of a report: profiles, plan, runner (papermill), progress, report.

runner goes through a Job, execution is one notebook, executed what is kept of it, report the end.
"""
