"""Checkpoints of other programs, and directories for them."""
