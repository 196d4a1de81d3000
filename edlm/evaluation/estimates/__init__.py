"""Estimates with their errors."""
