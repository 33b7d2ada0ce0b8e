"""Grafana dashboards as code: ``tools/generate_monitoring.py`` writes them into the chart."""

from __future__ import annotations

from dashboards import engine, fleet, job, kv_tiers

DASHBOARDS = tuple(module.DASHBOARD for module in (fleet, job, engine, kv_tiers))
