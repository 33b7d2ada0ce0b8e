"""One job on this node: ranges -> requests -> engine -> records, signals, exit code.

Owns the order in which things start and stop; decides nothing about blocks, batches or records.
"""
