"""`label_findings`: what in the counts of a labelled set says that its label files do not mean what its class list says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

LARGEST_IGNORED_SHARE = 0.5
"""Where more of the area than this is ignored, a set is told to be suspicious."""
_SHOWN_NAMES = 5
_FIX = (
    "check that the label files hold the values of the class list; in a folder of your own a value is the line in "
    "classes.txt, from 0, and 255 is ignored"
)


def label_findings(
    counts: Tensor, num_ignored: int, *, names: Sequence[str], largest_ignored_share: float = LARGEST_IGNORED_SHARE
) -> tuple[str, ...]:
    """Sentences about a labelled set that cannot mean what it says, such as masks of 0 and 255 for two classes.

    Args:
        counts: (N,) integers: labelled pixels of each class, of all images together.
        num_ignored: The number of pixels that are ignored.
        names: N names of the classes.
        largest_ignored_share: The largest share of ignored pixels that is not told, in [0, 1]; 1 for sets that ignore the
            background by design.

    Returns:
        One sentence each where listed classes never occur, where no more than one class does, and where most of the area is
        ignored.

    Example:
        >>> import torch
        >>> for finding in label_findings(torch.tensor([300, 0]), 700, names=["background", "person"]):
        ...     print(finding.split(":")[0])
        expected every listed class in the labels, got no pixel of 1 of 2 classes, 'person'
        expected two classes or more in the labels, got only 'background'
        expected labels for most of the area, got 70 % of the pixels ignored
    """
    numbers = counts.tolist()
    absent = [name for name, number in zip(names, numbers, strict=True) if not number]
    present = [name for name, number in zip(names, numbers, strict=True) if number]
    area = num_ignored + sum(numbers)
    found = []
    if absent:
        shown = ", ".join(map(repr, absent[:_SHOWN_NAMES])) + (", ..." if len(absent) > _SHOWN_NAMES else "")
        got = f"no pixel of {len(absent)} of {len(names)} classes, {shown}"
        found.append(f"expected every listed class in the labels, got {got}: {_FIX}")
    if len(present) < 2:
        got = f"only {present[0]!r}" if present else "none"
        found.append(f"expected two classes or more in the labels, got {got}: nothing is told apart; {_FIX}")
    if area and num_ignored / area > largest_ignored_share:
        share = f"{100 * num_ignored / area:.3g} % of the pixels ignored"
        found.append(f"expected labels for most of the area, got {share}: they count nowhere; {_FIX}")
    return tuple(found)
