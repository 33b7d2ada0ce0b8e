"""What runs, seen from outside: ``/progress`` of workers and the status of a cluster's jobs.

Reading (``http``, ``kubectl``) is apart from what is made of it (``worker_page``, ``rates``,
``cluster``) and from how it looks (``worker_frame``, ``cluster_frame``). Knows no job file, no
engine and no ledger: what a worker or the operator does not say is not shown.
"""
