"""How tables, marks and pages are shown."""

import re

import numpy as np
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from wafer.reporting.display import show_table
from wafer.reporting.findings import Reasons
from wafer.reporting.marks import WIDE, bar, strip
from wafer.reporting.pages import render_page

ROW = {"sensor": "S-1", "percentile": 99.0, "direction": "high", "together_with": "S-2", "reading": 1.0}


def cells(shown: str) -> list[tuple[str, str]]:
    """Class and text of each cell below the head."""
    found = re.findall(r'<t[hd][^>]*class="(\w)">(.*?)</t[hd]>', shown.partition("<tbody>")[2], flags=re.DOTALL)
    return [(kind, re.sub("<[^>]*>", "", text).strip()) for kind, text in found]


def test_numbers_stand_below_each_other_at_the_right():
    """Numbers, also those that are text, have one number of decimals and their own class; a gap is a dash."""
    frame = pd.DataFrame({"a": [0.5, np.nan], "b": [1200, 3], "c": ["0.7 [0.6, 0.8]", "–"], "d": ["one", "x" * 40]})
    frame.index = pd.Index(["p", "q"], name="name")
    shown = cells(show_table(frame).data)
    assert shown[:5] == [("s", "p"), ("n", "0.5"), ("n", "1,200"), ("n", "0.7 [0.6, 0.8]"), ("l", "one")]
    assert shown[5:9] == [("s", "q"), ("n", "–"), ("n", "3"), ("n", "–")]
    assert ("n", "0") in cells(show_table(pd.DataFrame({"a": [-1e-9, 1.0]})).data), "nothing is not less than nothing"


def test_truth_is_a_dot_and_a_share_a_bar_beside_its_number():
    """What is true has a dot with a word for those who do not see it; a bar is as long as its number says."""
    shown = show_table(pd.DataFrame({"yes": [True, False], "probability %": [50.0, 25.5]}), bars={"probability %": 100})
    assert cells(shown.data) == [("s", "0"), ("c", "●"), ("n", "50.0"), ("s", "1"), ("c", ""), ("n", "25.5")]
    assert shown.data.count('aria-label="yes"') == 1
    assert f'class="bar" y="1" width="{WIDE / 2:.1f}"' in shown.data
    assert bar(7.0).count(f'width="{WIDE:.1f}"') == 1
    assert "svg{max-width:none}" in shown.data, "JupyterLab would let the column be narrower than its bars"
    narrow = re.search(r"@container \(max-width:640px\)\{(.*?\})\}", shown.data)
    assert narrow and ".n svg{display:none}" in narrow[1], "where it is narrow the number stands alone"


def test_what_all_rows_share_is_told_once():
    """A column that is named for it leaves the table where it says the same in every row, and only there."""
    frame = pd.DataFrame({"a": [1, 2], "limit": [0.418, 0.418], "said": ["x < y", "x < y"], "b": [3, 3]})
    shown = show_table(frame, once=["a", "limit", "said"]).data
    assert cells(shown) == [("s", "0"), ("n", "1"), ("n", "3"), ("s", "1"), ("n", "2"), ("n", "3")]
    assert shown.endswith("<p>In all rows: <em>limit</em> 0.418; <em>said</em> x &lt; y</p>")
    assert "In all rows" not in show_table(frame.head(1), once=["limit"]).data, "one row needs no such line"


def test_a_reason_is_a_strip_with_its_words():
    """The dot stands where the percentile says, a missing reading has none, and names cannot change the page."""
    assert [re.findall('cx="([^"]*)"', strip(at, "")) for at in (0.0, 50.0, 100.0, np.nan)] == [
        ["4.0"],
        ["28.0"],
        ["52.0"],
        [],
    ]
    shown = Reasons((ROW, {**ROW, "sensor": "<i>", "direction": "missing", "percentile": np.nan})).__html__()
    assert 'aria-label="S-1 high (above 99 % of good wafers; with S-2)"' in shown
    assert "<b>&lt;i&gt;</b> no reading" in shown
    assert 'with <span style="white-space:nowrap">S-2</span></span>' in shown, "a name is not broken at its hyphen"
    assert str(Reasons()) == "none above chance"


def test_a_page_has_one_switch_for_its_code_and_a_list_of_its_sections():
    """Code is there but hidden, outputs stand beside the prose without prompts, texts are escaped."""
    picture = new_output("display_data", {"image/png": "AAAA"}, metadata={"image/png": {"alt": 'a "b" <c>'}})
    printed = new_output("stream", text="<b>so</b>")
    code = new_code_cell("show(1 < 2)", outputs=[picture, printed, new_output("display_data", {"text/plain": "<i>"})])
    page = render_page(new_notebook(cells=[new_markdown_cell("# T & U\n\n## One *two*\n\n## Three"), code]))
    assert "<title>T &amp; U</title>" in page
    assert page.count('id="code"') == 1
    assert '<pre class="code">show(1 &lt; 2)</pre>' in page
    assert re.findall(r'<li><a href="#([^"]*)">(.*?)</a>', page) == [
        ("One-two", "One <em>two</em>"),
        ("Three", "Three"),
    ]
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in page or "alt='a \"b\" &lt;c&gt;'" in page
    assert "&lt;b&gt;so&lt;/b&gt;" in page and "&lt;i&gt;" in page
    assert "Prompt" not in page
