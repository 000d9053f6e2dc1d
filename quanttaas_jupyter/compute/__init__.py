"""Places where studies run: executors of stages, clusters with their engines, and templates that create clusters."""
