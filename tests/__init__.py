"""Tests mirror the tree; a package, so that no installed `tests` stands before them."""
