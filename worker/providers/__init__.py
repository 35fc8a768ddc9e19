"""Provider ports and one module per provider type."""
