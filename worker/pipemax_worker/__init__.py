"""PipeMax: offline inference of large language models on the hardware that people own."""

__version__ = "0.1.0"
