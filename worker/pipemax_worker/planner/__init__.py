"""The real engine over a simulated pipeline on a virtual clock: what a job would take elsewhere."""
