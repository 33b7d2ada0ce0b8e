"""Fetches models from afar, once per node: by hub id or from an S3 bucket, into a cache folder.

In a model's order: ``models`` (what is asked for), ``hub`` and ``s3`` (where it comes from),
``needed_files`` (which files), ``hub_cache`` and ``folder_cache`` (where they lie on this node),
``file_download`` and ``transfer`` (the bytes), ``lock`` (one process at a time), ``fetch`` (all of
it, in order). Knows nothing of jobs, prompts or stages.
"""
