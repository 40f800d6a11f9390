"""From an executed notebook to one HTML file that works offline: no script, font or style from elsewhere.

The text column is as wide as the plots, `wafer.reporting.style.WIDTH`; one switch at the top shows all code.
"""

import logging
import re

from jinja2 import FileSystemLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from wafer.reporting.look import TEMPLATES, look

SECTION = re.compile(r'<h2 id="([^"]*)">(.*?)<a class="anchor-link"', re.DOTALL)


def render_page(notebook: NotebookNode, title: str | None = None) -> str:
    """The notebook as one page, its code hidden until it is asked for.

    Args:
        notebook: executed, with its outputs.
        title: of the page; default is the notebook's first heading.
    """
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        extra_loaders=[FileSystemLoader(TEMPLATES)], template_file="page.html.j2"
    )
    exporter.embed_images = True
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    heading = title or first_heading(notebook) or "wafer"
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": heading}, "look": look()})
    head, _, rest = str(page).partition("@CONTENTS@")
    return head + "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in SECTION.findall(rest)) + rest


def first_heading(notebook: NotebookNode) -> str | None:
    """The text of the first level-one heading, without its marks."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("# "):
                    return str(line[2:].strip())
    return None
