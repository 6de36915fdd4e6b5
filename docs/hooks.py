"""What mkdocs.yml cannot say: pages that stand outside docs/, links between both, and lists that fill themselves.

MkDocs calls the functions by their names. How the tables of the node reference come about is in `reference.py`.
"""

from __future__ import annotations

import posixpath
import re
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
OUTSIDE = ("CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("models/*/README.md"))))
"""Pages of the site that are not below docs/, relative to the repository."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: Any) -> None:
    """`results/*.md` in the navigation is every such page, in the order of their names."""
    pages = sorted([*OUTSIDE, *(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))])
    for section in config.nav:
        for title, entries in section.items():
            if isinstance(entries, list):
                section[title] = [page for entry in entries for page in matching(pages, entry) or [entry]]


def on_files(files: Files, config: Any) -> None:
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are right in the repository become right in the site, where docs/ is the top."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in OUTSIDE else f"docs/{here}")

    def in_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return LINK.sub(in_site, markdown)
