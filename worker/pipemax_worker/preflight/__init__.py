"""What a machine has, held against what a job needs, before a model is loaded.

``memory``, ``disk``, ``io_uring`` and ``nvidia_smi`` measure; ``checks`` decides, and is pure. It
knows no job and no torch: needs come in as numbers, findings go out as values.
"""
