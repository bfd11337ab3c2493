"""Excerpts: stretches of samples with a feature's activations, for explainers to see and scorers to ask about."""
