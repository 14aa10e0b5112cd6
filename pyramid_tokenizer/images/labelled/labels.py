"""What the numbers in a map of labels mean, besides 0 to N - 1, which are indices into a list of N class names."""

from __future__ import annotations

NO_CLASS = -1
"""In predicted maps: the pixel shows none of the classes; it belongs to the background."""
