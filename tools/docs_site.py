"""Hooks of mkdocs.yml: what the site has beside the files of docs/.

The embedded model's card and the map of the code lie elsewhere in the repository. Links to any
other file that the site leaves out, a result or a module, keep their words: the site stands alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Pages that are files of the repository: name in the site -> file.
PAGES = {
    "embedded_model.md": ROOT / "ada3d_ros" / "models" / "embedded" / "README.md",
    "map.md": ROOT / "ARCHITECTURE.md",
}
LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of PAGES."""
    for name, file in PAGES.items():
        files.append(File.generated(config, name, content=file.read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the pages that are there; of another file of the repository keep the words."""
    docs = Path(config["docs_dir"])
    name = page.file.src_uri
    here = PAGES.get(name, docs / name).parent

    def moved(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        file = (here / target).resolve()
        if not file.exists():
            return match[0]  # mkdocs warns, and strict stops
        for page_name, source in PAGES.items():
            if file == source:
                depth = name.count("/")
                return f"[{words}]({'../' * depth}{page_name}{anchor})"
        if file.is_dir() and file.is_relative_to(docs):
            file /= "README.md"
        inside = str(file.relative_to(docs)) if file.is_relative_to(docs) else ""
        found = files.get_file_from_path(inside)
        if found is not None and found.inclusion.is_included():
            return f"[{words}]({'../' * name.count('/')}{inside}{anchor})"
        return words

    return LINK.sub(moved, markdown)
