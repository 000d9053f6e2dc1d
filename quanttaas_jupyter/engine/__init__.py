"""What happens to a model. Imports nothing from Jupyter."""
