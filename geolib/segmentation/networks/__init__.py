"""Segmenters that hold a network."""
