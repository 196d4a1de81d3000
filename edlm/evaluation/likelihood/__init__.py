"""Bounds on likelihoods."""
