"""Corpora: text files, archives and well-known texts to a data-bin; needs no fairseq."""
