"""What `mkdocs build` does here besides rendering: folders in the nav, notebooks, links into the repository."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Makes a page of every notebook and, in the nav, all pages of a folder that it names."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        page = Path(notebook.abs_src_path).read_text()
        files.append(File.generated(config, notebook.src_uri.replace(".ipynb", ".md"), content=as_markdown(page)))
    pages = sorted((file.src_uri for file in files.documentation_pages()), key=lambda uri: title(files, uri))
    config.nav = unfolded(config.nav, pages)
    return files


def unfolded(nav: list[Any], pages: list[str]) -> list[Any]:
    """`nav` with the pages in the place of each folder; a folder without any is left out."""
    made = []
    for item in nav:
        (section, inside), *_ = item.items() if isinstance(item, dict) else [("", item)]
        if section and isinstance(inside, str) and inside.endswith("/"):
            found = [page for page in pages if page.startswith(inside)]
            made += [{section: found}] if found else []
        else:
            made.append(item)
    return made


def title(files: Files, uri: str) -> tuple[bool, str]:
    """What a page is sorted by: a folder's own page first, then by the first heading."""
    content = files.get_file_from_path(uri).content_string
    heading = re.search(r"^# (.+)$", content, flags=re.MULTILINE)
    return not uri.endswith(("README.md", "index.md")), (heading[1] if heading else uri).lower()


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository that are no pages, as their text: the site is read without the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def plain(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2].partition("#")[0]))
        outside = "://" not in match[2] and not match[2].startswith("#") and not path.startswith("docs/")
        return f"`{path}`" if outside else match[0]

    return LINK.sub(plain, markdown)


def as_markdown(notebook: str) -> str:
    """A notebook as a page: its text, its code, and what the code gave."""
    return "\n\n".join(part for cell in json.loads(notebook)["cells"] for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [source]
    return [f"```python\n{source}\n```", *(shown for output in cell["outputs"] for shown in _shown(output))]


def _shown(output: dict[str, Any]) -> list[str]:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return [f"![](data:image/png;base64,{''.join(data['image/png']).strip()})"]
    if "text/html" in data:
        return [f"<div>{''.join(data['text/html'])}</div>"]
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(data.get("text/plain", ""))).rstrip()
    return [f"```text\n{text}\n```"] if text else []
