"""The model on NVIDIA GPUs: FlashInfer's kernels, and steps captured as CUDA graphs."""
