"""Evaluation of artifacts: predictions, metrics with confidence intervals, signal to noise, and latency."""
