"""What a run shows of itself: Prometheus metrics, JSON progress over HTTP, a terminal display.

Owns presentation only: numbers come in as frozen snapshots (``contract.statistics``,
``telemetry.progress``); nothing here asks the engine or the dataset.
"""
