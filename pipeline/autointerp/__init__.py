"""Runs over many features: explain them, score what was said, within a budget, and never pay twice."""
