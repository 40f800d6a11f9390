"""From an executed notebook to one HTML file that works offline: no script, font or style from elsewhere."""

import logging

from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode

TEMPLATE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
{%- block html_head_css -%}{{ super() }}<style>
body.jp-Notebook { max-width: 62rem; margin: 0 auto; padding: 1.5rem 2rem 4rem; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
.jp-Cell { padding: 0; }
.jp-MarkdownCell { margin-top: .6rem; }
.jp-RenderedHTMLCommon { font-size: 15px; line-height: 1.5; }
.jp-RenderedHTMLCommon table { font-size: 13px; margin-left: 0; }
.jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { text-align: left !important; vertical-align: top !important;
  max-width: 34rem !important; white-space: normal !important; }
.jp-OutputArea-output img { max-width: 100%; height: auto; }
.jp-RenderedText pre { white-space: pre-wrap; }
details.code { color: #8c8c8c; font: 11px sans-serif; margin: .2rem 0; }
details.code summary { cursor: pointer; width: max-content; margin-left: auto; }
.jp-Cell-inputWrapper, .jp-InputArea, .jp-Cell { overflow: visible; }
.jp-RenderedHTMLCommon th { white-space: nowrap !important; }
details.code:not([open]) { height: 0; margin: 0; position: relative; z-index: 1; }
.jp-mod-noOutputs details.code:not([open]) { height: auto; }
@media print { details.code { display: none; } }
</style>{%- endblock html_head_css -%}
{%- block input -%}
<details class="code"><summary>code</summary>{{ super() }}</details>
{%- endblock input -%}
{%- block data_png scoped -%}
{%- set about = output.metadata.get('image/png', {}) -%}
<div class="jp-RenderedImage jp-OutputArea-output"><img alt="{{ about.get('alt', '') | escape }}"
 {%- if about.get('width') %} width="{{ about['width'] }}"{% endif %} src="data:image/png;base64,
 {{- output.data['image/png'] | replace('\n', '') }}"></div>
{%- endblock data_png -%}
"""


def render_page(notebook: NotebookNode, title: str | None = None) -> str:
    """The notebook as one page, its code folded away.

    Args:
        notebook: executed, with its outputs.
        title: of the page; default is the notebook's first heading.
    """
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        extra_loaders=[DictLoader({"page.html.j2": TEMPLATE})], template_file="page.html.j2"
    )
    exporter.embed_images = True
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    heading = title or first_heading(notebook) or "wafer"
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": heading}})
    return str(page)


def first_heading(notebook: NotebookNode) -> str | None:
    """The text of the first level-one heading, without its marks."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("# "):
                    return str(line[2:].strip())
    return None
