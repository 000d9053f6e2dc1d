"""Settings for administrators, in ``jupyter_server_config.py`` or on the command line."""

from __future__ import annotations

from traitlets import List, Unicode
from traitlets.config import Configurable


class QuantTaaS(Configurable):
    """Restrictions on the stores and clusters of the configuration that the side panel may use; they never add any."""

    stores = List(
        Unicode(),
        default_value=None,
        allow_none=True,
        help="Folders and gs:// URIs that the side panel may use; None for all that are configured.",
    ).tag(config=True)

    clusters = List(
        Unicode(),
        default_value=None,
        allow_none=True,
        help="Names of clusters that the side panel may use, 'local' among them; None for all that are configured.",
    ).tag(config=True)
