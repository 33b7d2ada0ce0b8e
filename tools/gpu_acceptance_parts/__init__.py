"""The parts of tools/gpu_acceptance.py."""
