"""Jupyter Server extension of the side panel: REST routes under ``<base_url>quanttaas/``."""
