"""Notebook front end: magics, completion, the live view and the still view of studies."""
