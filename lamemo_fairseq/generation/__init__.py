"""Decoding of new text: search, prompts, the Python interface."""
