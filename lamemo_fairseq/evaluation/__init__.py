"""Scoring: plans, losses, reports, grids."""
