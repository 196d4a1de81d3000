"""Measures of samples: cost, text statistics, judges."""
