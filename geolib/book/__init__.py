"""Executes the notebooks and turns them into pages."""
