"""Conversion of a model, data, a metric and functions in memory into blobs, with digests equal in all kernels."""
