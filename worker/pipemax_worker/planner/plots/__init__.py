"""Pictures of a simulated run: in the terminal, and as PNG where matplotlib is installed."""
