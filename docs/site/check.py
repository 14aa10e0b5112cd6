"""Checks the built site: every link leads somewhere, nothing is loaded from elsewhere, every public name is described.

python docs/site/check.py build/site
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("link", "href")}
"""What a browser loads by itself, in contrast to the target of a link."""


class _Page(HTMLParser):
    """The anchors and the addresses in a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []
        """(tag, address) of everything that is linked to or loaded."""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the tag's anchor and its addresses."""
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(str(given["id"]))
        for name in ("href", "src"):
            if given.get(name) and given.get("rel") not in ("canonical", "prev", "next"):
                self.links.append((tag, str(given[name])))


def broken_links(site: Path) -> list[str]:
    """What is wrong with the links of a folder of HTML files, one sentence each.

    Args:
        site: The folder.
    """
    pages = {file: _Page(file) for file in site.rglob("*.html") if file.name != "404.html"}  # its links are absolute
    found = []
    for file, page in pages.items():
        for tag, address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if any(tag == loaded for loaded, _ in LOADED) and parts.scheme != "data":
                    found.append(f"{file.relative_to(site)} loads {address} from elsewhere")
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                found.append(f"{file.relative_to(site)} links to {address}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids | {"__top"}:
                found.append(f"{file.relative_to(site)} links to {address}, which has no such anchor")
    return found


def public_names() -> list[str]:
    """Every name in the `__all__` of the package and of the packages in it, with its path."""
    package = importlib.import_module("pyramid_tokenizer")
    found = [f"{package.__name__}.{name}" for name in package.__all__]
    for module in pkgutil.walk_packages(package.__path__, "pyramid_tokenizer."):
        if module.ispkg:
            names = getattr(importlib.import_module(module.name), "__all__", ())
            found += [f"{module.name}.{name}" for name in names]
    return found


def public_methods(path: str) -> list[str]:
    """The methods and properties of a public class, inherited ones of this package too; [] for what is no class.

    Args:
        path: Of the class, e.g. "pyramid_tokenizer.TokenPyramid".
    """
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if not isinstance(value, type):
        return []
    bases = [base for base in inspect.getmro(value) if base.__module__.startswith("pyramid_tokenizer")]
    members = {key: member for base in bases for key, member in vars(base).items() if not key.startswith("_")}
    kinds = (property, classmethod, staticmethod, types.FunctionType)
    found = [key for key, member in members.items() if isinstance(member, kinds) and member.__doc__]
    # `forward = reconstruct` is described as reconstruct.
    return [f"{path}.{key}" for key in found if getattr(members[key], "__name__", key) == key]


def undescribed(site: Path) -> list[str]:
    """The public names, and methods of public classes, that the site's reference neither describes nor links to.

    Args:
        site: The folder of HTML files.
    """
    anchors: set[str] = set()
    linked: dict[str, set[str]] = {}
    for file in (site / "reference").glob("*.html"):
        page = _Page(file)
        anchors |= page.ids
        linked[file.stem] = page.ids
    missing = []
    for path in public_names():
        module, _, name = path.rpartition(".")
        stem = module.removeprefix("pyramid_tokenizer").removeprefix(".") or "index"
        # A name that another package has too is described once; the other page has a heading that links there.
        if path not in anchors and name.lower() not in linked.get(stem, ()):
            missing.append(path)
        elif path in anchors:
            missing += [method for method in public_methods(path) if method not in anchors]
    return missing


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    faults = broken_links(folder) + [f"the reference lacks {name}" for name in undescribed(folder)]
    sys.exit("\n".join(faults) or None)
