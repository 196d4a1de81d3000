"""Synthetic languages with known truth."""
