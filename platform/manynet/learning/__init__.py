"""Training mechanics in plain PyTorch: strategies, optimizers, gradients."""
