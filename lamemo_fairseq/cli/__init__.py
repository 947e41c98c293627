"""Commands of this package's own."""
