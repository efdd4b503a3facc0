"""A run: Config -> train -> convert -> simulate -> results on disk."""
