"""What MkDocs does beside its own: pages for the files that docs/ links to, and the pages of the API reference.

docs/results.md links to ../benchmarks/README.md     the site has it as repository/benchmarks/README.md
pyramid_tokenizer.tokens.__all__                     reference/tokens.md, with every name in it
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = "pyramid_tokenizer"
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
MODULES = ("errors", "numpy_reader", "export.reader")
"""Public modules beside the packages; `errors` has every error, `numpy_reader` and `export.reader` can be copied."""


@functools.cache
def _package():
    import griffe

    return griffe.load(PACKAGE, search_paths=[ROOT])


def public_names() -> dict[str, list[str]]:
    """The public names of every package that has an `__all__`, and of `MODULES`, the package itself first."""
    package = _package()
    names = {module.path: [str(name) for name in module.exports or ()] for module in _packages(package)}
    for module in MODULES:
        names[f"{PACKAGE}.{module}"] = [
            name
            for name, member in package[module].members.items()
            if not member.is_alias and (member.is_class or member.is_function) and not name.startswith("_")
        ]
    return {module: names[module] for module in sorted(names) if names[module]}


def _packages(module) -> Iterator:
    yield module
    for member in module.members.values():
        if not member.is_alias and member.is_module and member.is_init_module:
            yield from _packages(member)


@functools.cache
def reference_pages() -> dict[str, str]:
    """Markdown of the API reference by the address of its page: every public name once, and links where it is again.

    Raises:
        ValueError: A public name has no docstring.
    """
    package = _package()
    first: dict[str, str] = {}
    pages = {}
    for module, names in public_names().items():
        inside = module.removeprefix(PACKAGE).removeprefix(".")
        address = f"reference/{inside or 'index'}.md"
        title = package[inside] if inside else package
        text = [f"# {module}\n", title.docstring.value.partition("\n\n")[0] + "\n"]
        for name in sorted(names, key=str.lower):
            if name == "__version__":
                text.append('<a id="pyramid_tokenizer.__version__"></a>`__version__` is the version, a string.\n')
                continue
            member = title.members[name]
            target = member.final_target if member.is_alias else member
            if not target.docstring:
                raise ValueError(f"expected a docstring of {module}.{name}, got none: write one below it")
            if target.path in first:
                text.append(f"## {name}\n\nSee [`{first[target.path]}`][{first[target.path]}].\n")
                continue
            first[target.path] = f"{module}.{name}"
            text.append(f"::: {module}.{name}\n")
        pages[address] = "\n".join(text)
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages of the reference into the navigation."""
    for entry in config.nav:
        if "API reference" in entry:
            entry["API reference"] = [{_title(address): address} for address in reference_pages()]
    return config


def _title(address: str) -> str:
    return "pyramid_tokenizer" if address.endswith("index.md") else Path(address).stem


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the reference, and the files of the repository that pages link to, and those that these link to."""
    from mkdocs.structure.files import File, InclusionLevel

    for address, text in reference_pages().items():
        files.append(File.generated(config, address, content=text))
    todo = [f"docs/{file.src_uri}" for file in files.documentation_pages() if (ROOT / "docs" / file.src_uri).is_file()]
    seen = set(todo)
    while todo:
        for path in _linked(todo.pop()):
            if path in seen or path.startswith("docs/") or not (ROOT / path).exists():
                continue
            seen.add(path)
            todo += [path] if path.endswith(".md") else []
            text = (ROOT / path).read_text(encoding="utf-8") if path.endswith(".md") else _source_page(path)
            files.append(File.generated(config, site_address(path), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def _linked(path: str) -> list[str]:
    text = FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in LINK.findall(text)]


def _source_page(path: str) -> str:
    """A file that is not Markdown as a page, or a folder as a list of its files."""
    file = ROOT / path
    if file.is_dir():
        listed = "\n".join(f"- `{entry.name}`" for entry in sorted(file.iterdir()) if entry.name[0] not in "._")
        return f"# {path}\n\n{listed}\n"
    return f"# {path}\n\n````{file.suffix.removeprefix('.')}\n{file.read_text(encoding='utf-8')}\n````\n"


def site_address(path: str) -> str:
    """Where the site has a file of the repository.

    Args:
        path: From the root of the repository, with "/".

    Example:
        >>> site_address("docs/results.md"), site_address("examples/05_finetune.py")
        ('results.md', 'repository/examples/05_finetune.py.md')
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at where the site has the files."""
    here = page.file.src_uri
    if here.startswith("reference/"):
        return markdown
    source = here.removeprefix("repository/") if here.startswith("repository/") else f"docs/{here}"

    def moved(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return f"]({os.path.relpath(site_address(path), posixpath.dirname(here) or '.')}"

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(moved, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(moved, markdown[end:])])
