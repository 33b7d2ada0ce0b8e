"""Pictures of the dashboards without Grafana: their real queries, drawn by matplotlib."""
