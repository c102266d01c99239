"""Data that calibrates, measures and trains: named sets, local files, retention statistics."""
