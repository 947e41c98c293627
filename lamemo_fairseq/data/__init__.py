"""Texts in order: layouts, segments, batches, the memory store, dictionaries."""
