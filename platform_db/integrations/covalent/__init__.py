"""Covalent's dispatches as runs: saving their manifests, and the answers that its UI asks for.

A dispatch is a run with the same id, of the type ``covalent``, or ``covalent-sublattice`` where a node of
another one has dispatched it. Its electrons are jobs, its links are dependencies, and the contents of its
assets are results. Nothing here needs Covalent itself.
"""

from platform_db.integrations.covalent.assets import get_asset, save_asset
from platform_db.integrations.covalent.deletion import delete_all, delete_dispatches
from platform_db.integrations.covalent.listing import get_sublattices, list_dispatches, overview
from platform_db.integrations.covalent.reading import get_dispatch, get_electron, get_graph, get_manifest
from platform_db.integrations.covalent.saving import save_dispatch

__all__ = [
    "delete_all",
    "delete_dispatches",
    "get_asset",
    "get_dispatch",
    "get_electron",
    "get_graph",
    "get_manifest",
    "get_sublattices",
    "list_dispatches",
    "overview",
    "save_asset",
    "save_dispatch",
]
