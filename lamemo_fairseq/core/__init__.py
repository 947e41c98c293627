"""The method: language models with memory, on torch alone."""
