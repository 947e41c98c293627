"""Comparisons of memory kinds: records, tables, figures, pages."""
