"""Releases: folders of weights that others load, sample and distil from."""
