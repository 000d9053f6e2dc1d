"""The extension of Jupyter Server behind the side panel: REST under ``<base_url>quanttaas/``."""
