"""Pipelines: commands that train and measure one after the other, within a number of minutes."""
