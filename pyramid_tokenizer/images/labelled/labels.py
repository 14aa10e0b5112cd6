"""What the numbers in a map of labels mean, besides 0 to N - 1, which are indices into a list of N class names."""

from __future__ import annotations

NO_CLASS = -1
"""In predicted maps: the pixel shows none of the classes; it belongs to the background."""

IGNORED = -1
"""In labelled sets: it is not known what the pixel shows, so that it counts neither in training nor in a score. Files of sets
write 255, 65535, 459 or 0 for it.

Both are -1 and never meet: one stands in what a model predicts, the other in what it is compared with.
"""
