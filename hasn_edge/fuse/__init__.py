"""Exact re-writing of a trained network into one with fewer operations."""
