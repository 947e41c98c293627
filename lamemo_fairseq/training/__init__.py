"""Training steps, resume, ranks, checkpoints, metrics."""
