"""Many pre-training runs at once: a pool of processes of this machine, or a Ray cluster.

pool hands runs out and reports, processes and ray_cluster are its two kinds of workers.
"""
