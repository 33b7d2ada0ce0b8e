"""A real Kubernetes control plane as plain processes on loopback."""
