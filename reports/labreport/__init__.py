"""The lab report around the method, in rooms: store, science, render, notebook, run, workers, tools.

On top cli and session, below what all rooms use: project, environment, parameters, results, text.
"""
