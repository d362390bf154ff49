"""The built-in engine: continuous batching in plain PyTorch and transformers."""
