"""The pages, as text and in a real browser: nothing runs, nothing is fetched, everything fits."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reporting import Made

from labkit.report import index, markup
from labkit.report.chapter import read_chapter
from labkit.report.formulas import mathml

NAMES = ["index", "01_utility", "02_robustness", "03_privacy", "04_cvae", "05_gmm", "06_tradeoff"]
every_page = pytest.mark.parametrize("name", NAMES)


class Elements(HTMLParser):
    """Every start tag of a page, with its attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.all if name == tag]


def without_code(page: str) -> str:
    return re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)


@pytest.mark.slow
class TestText:
    @every_page
    def test_nothing_runs(self, troubled: Made, name: str):
        page = Elements(troubled.page(name))
        assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.all}
        assert not [a for _, attributes in page.all for a in attributes if a.startswith("on")]

    @every_page
    def test_every_image_is_in_the_page_and_described(self, troubled: Made, name: str):
        for image in Elements(troubled.page(name)).of("img"):
            assert image["src"].startswith("data:image/png;base64,")
            assert image["alt"].strip()

    @every_page
    def test_every_link_inside_the_report_leads_somewhere(self, troubled: Made, name: str):
        for link in Elements(troubled.page(name)).of("a"):
            file, _, anchor = link["href"].partition("#")
            target = troubled.folder / (file or f"{name}.html")
            assert target.exists()
            if anchor:
                assert anchor in {a.get("id") for _, a in Elements(target.read_text()).all}

    def test_a_figure_is_shown_once_with_its_description(self, troubled: Made):
        images = Elements(troubled.page("01_utility")).of("img")
        assert [image["alt"] for image in images] == ['Four <b>empty</b> "axes"', "One pair of axes"]
        assert '<p class="caption" aria-hidden="true">Four &lt;b&gt;empty' in troubled.page("01_utility")
        assert 'class="caption"' not in troubled.page("index")  # there figures are links, and nothing else in them is
        assert not [f for f in Elements(troubled.page("index")).of("figure") if "tabindex" in f]

    def test_text_of_outputs_is_shown_once_and_escaped(self, troubled: Made):
        shown = without_code(troubled.page("02_robustness"))
        assert shown.count("attacks agree &lt;here&gt;") == 2  # in the alarm and where it was made
        assert "<here>" not in shown
        assert "onclick" not in shown

    def test_formulas_are_mathml(self, troubled: Made):
        page = troubled.page("01_utility")
        assert len(Elements(page).of("math")) == 3  # in the title's cell, the method's, and the finding
        shown = without_code(page)
        assert "\\min" not in shown
        assert "$" not in shown
        assert "<munder>" in shown
        assert "<math" in troubled.page("index")

    def test_a_table_of_contents(self, troubled: Made):
        links = [a["href"] for a in Elements(troubled.page("01_utility")).of("a")]
        assert links[links.index("#method") :][:3] == ["#method", "#hostile", "#provenance"]

    def test_code_is_folded_but_there(self, troubled: Made):
        page = troubled.page("01_utility")
        folds = [d for d in Elements(page).of("details") if d.get("class") == "source"]
        assert len(folds) == 9
        assert not any("open" in fold for fold in folds)
        failed = [d for d in Elements(troubled.page("03_privacy")).of("details") if "open" in d]
        assert len(failed) == 1  # the cell that failed lies open

    def test_the_parameters_that_a_chapter_uses_with_the_runs_values(self, troubled: Made):
        table = re.search(r'<table class="parameters">.*?</table>', troubled.page("01_utility"), re.DOTALL)[0]
        assert re.findall(r"<code>(\w+)</code></th><td>(\w+)</td>", table) == [("seed", "0"), ("dataset", "digits")]

    def test_the_traceback_without_colours(self, troubled: Made):
        page = troubled.page("03_privacy")
        assert "ZeroDivisionError" in page
        assert "\x1b" not in page

    def test_the_first_page_says_loudly_that_these_are_digits(self, troubled: Made):
        page = troubled.page("index")
        title = "What does a defence cost? Measured on scikit-learn digits, not on FashionMNIST"
        assert f"<title>{title}</title>" in page
        assert f"<h1>{title}</h1>" in page

    def test_failed_checks_are_on_the_first_page(self, troubled: Made):
        page = troubled.page("index")
        assert "1 of 2 checks failed" in page
        assert "attacks agree &lt;here&gt;: FAILED" in page
        assert "off by 0.2" in page

    def test_the_overview_is_made_of_the_tradeoffs_rows(self, troubled: Made):
        chapters = [read_chapter(p) for p in sorted((troubled.folder / "notebooks").glob("*.ipynb"))]
        seen = index.overview(chapters, eps=0.1)
        assert [(c.title, c.condition) for c in seen.columns] == [
            ("Clean accuracy", ""),
            ("Robust accuracy", "PGD, radius\N{NO-BREAK SPACE}0.1"),
            ("Leakage: AUC", "LiRA"),
        ]
        values = {line.name: [c.value for c in line.cells] for line in seen.lines}
        assert values == {
            "Standard": ["90.0 %", "10.0 %", "0.600"],
            "PGD-trained": ["80.0 %", "70.0 %", "0.550"],
            "DP-SGD": ["70.0 %", "20.0 %", "0.500"],
        }
        best = {line.name: [c.best for c in line.cells] for line in seen.lines}
        assert best == {
            "Standard": [True, False, False],
            "PGD-trained": [False, True, False],
            "DP-SGD": [False, False, True],
        }
        assert seen.lines[0].cells[0].interval == "89.0 – 91.0"
        assert seen.lines[0].cells[1].interval == ""

    def test_without_a_tradeoff_the_chapters_rows_stand_in(self, troubled: Made):
        chapters = [read_chapter(troubled.folder / "notebooks" / "01_utility.ipynb")]
        seen = index.overview(chapters, eps=0.1)
        assert [line.name for line in seen.lines] == ["Standard"]
        assert seen.source == "single chapters"

    def test_a_defence_s_rows_are_no_model_s_of_the_other_chapters(self, troubled: Made):
        (chapter,) = [read_chapter(troubled.folder / "notebooks" / "01_utility.ipynb")]
        defence = {**chapter.rows[0], "metric": "accuracy", "value": 0.123, "train_eps": 0.1}
        seen = index.overview([replace(chapter, rows=[*chapter.rows, defence])], eps=0.1)
        assert seen == index.overview([chapter], eps=0.1)

    def test_the_tradeoffs_findings_come_first(self, troubled: Made):
        chapters = [read_chapter(p) for p in sorted((troubled.folder / "notebooks").glob("*.ipynb"))]
        assert [f["notebook"] for f in index.findings(chapters)] == ["06_tradeoff", "01_utility"]

    def test_the_findings_on_defences_come_before_the_others(self, troubled: Made):
        one = read_chapter(troubled.folder / "notebooks" / "01_utility.ipynb")
        names = ["01_utility", "02_robustness", "03_privacy", "04_cvae", "06_tradeoff"]
        chapters = [
            replace(one, outcome=replace(one.outcome, name=n), findings=[{"notebook": n, "text": t} for t in "ab"])
            for n in names
        ]
        order = [f["notebook"][:2] for f in index.findings(chapters)]
        assert order == ["06", "06", "02", "03", "01"]


@pytest.mark.parametrize(
    ("html", "gone"),
    [
        ("<script>alert(1)</script>", "alert"),
        ("<SCRIPT src=//x.org/a.js></SCRIPT>", "x.org"),
        ("<p onmouseover='alert(1)'>a</p>", "alert"),
        ("<a href='javascript:alert(1)'>a</a>", "alert"),
        ("<a href='data:text/html,<script>alert(1)</script>'>a</a>", "data:"),
        ("<img src='https://x.org/a.png' alt='a'>", "x.org"),
        ("<img src=x onerror=alert(1)>", "alert"),
        ("<div style='background:url(https://x.org/a.png)'>a</div>", "x.org"),
        ("<style>@import 'https://x.org/a.css';</style>", "x.org"),
        ("<iframe src='https://x.org'></iframe>", "x.org"),
        ("<svg><image href='https://x.org/a.png'/></svg>", "x.org"),
        ("<math><mtext><img src='https://x.org/a.png'></mtext></math>", "x.org"),
        ("<link rel=stylesheet href='https://x.org/a.css'>", "x.org"),
    ],
)
def test_clean_drops_what_runs_or_fetches(html: str, gone: str):
    assert gone not in markup.clean(html)
    assert gone not in markup.Prose()(html)


def test_clean_keeps_what_says_something():
    table = '<table><caption>c</caption><tbody><tr><td colspan="2" class="num">1</td></tr></tbody></table>'
    assert markup.clean(table) == f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{table}</div>'
    assert 'alt="' in markup.clean('<img src="data:image/png;base64,AA">')


def test_anchors_are_unique_and_headings_in_order():
    prose = markup.Prose()
    prose("## Result")
    prose("## Result\n\n### `x` & $y$")
    assert [(h.level, h.text, h.anchor) for h in prose.headings] == [
        (2, "Result", "result"),
        (2, "Result", "result-2"),
        (3, "x & y", "x-y"),
    ]


def test_a_formula_that_cannot_be_set_is_shown_as_its_source(caplog: pytest.LogCaptureFixture):
    for latex in (r"\frac{", r"\nosuchmacro{x}"):
        assert mathml(latex) == f'<code class="unset-formula">{latex}</code>'
        assert repr(latex) in caplog.text


@pytest.mark.parametrize("operator", [r"\max", r"\min", r"\arg\max", r"\arg \min", r"\sup"])
def test_limits_stand_below_a_displayed_operator(operator: str):
    latex = operator + r"_{x \in S} f(x)"
    assert "<munder>" in mathml(latex, display=True)
    assert "<msub>" in mathml(latex)


def test_printed_progress_bars_are_no_result():
    text = "start\n 10%|#         | 1/10 [00:01<00:09]\r100%|##########| 10/10 [00:10<00:00, 1.0s/it]\nold\rnew\n"
    assert markup.printed(text) == "start\nnew"


# In a browser


@pytest.fixture(scope="module")
def browser(troubled: Made) -> Iterator[object]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.slow
class TestInABrowser:
    @every_page
    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
    def test_no_request_no_complaint_no_overflow(
        self, troubled: Made, browser: object, name: str, width: int, scheme: str
    ):
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        requests, complaints = [], []
        page.on("request", lambda r: requests.append(r.url))
        page.on("console", lambda m: complaints.append(m.text))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        address = (troubled.folder / f"{name}.html").as_uri()
        page.goto(address, wait_until="load")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert [url for url in requests if not url.startswith("data:")] == [address]
        assert complaints == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert "owned" not in page.title()
        page.close()

    def test_dark_mode_has_a_dark_page_and_light_text(self, troubled: Made, browser: object):
        def brightness(scheme: str) -> list[float]:
            page = browser.new_page(color_scheme=scheme)
            page.goto((troubled.folder / "index.html").as_uri())
            colours = page.evaluate("['backgroundColor', 'color'].map(c => getComputedStyle(document.body)[c])")
            page.close()
            return [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in colours]

        paper, ink = brightness("dark")
        assert paper < 0.2 < 0.8 < ink
        paper, ink = brightness("light")
        assert ink < 0.2 < 0.8 < paper

    def test_wide_things_scroll_within_themselves_on_a_phone(self, troubled: Made, browser: object):
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto((troubled.folder / "01_utility.html").as_uri())
        figure = page.evaluate("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('figure.wide'))")
        assert figure[0] > figure[1] <= 390
        page.close()

    def test_print_shows_the_results_on_white_without_navigation(self, troubled: Made, browser: object, tmp_path: Path):
        page = browser.new_page(color_scheme="dark")
        page.goto((troubled.folder / "01_utility.html").as_uri())
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav.way").is_visible()
        assert page.locator("img").first.is_visible()
        assert page.pdf(path=tmp_path / "page.pdf").startswith(b"%PDF")
        page.close()


def test_columns_align_as_markdown_says_and_percentages_hold_together():
    page = markup.Prose()("| a | b |\n|---|---:|\n| c | 65.0 % |")
    assert '<td align="right">65.0\N{NO-BREAK SPACE}%</td>' in page
    assert "<td>c</td>" in page


def test_a_column_of_the_overview_says_how_many_images_it_rests_on():
    rows = [{"metric": "robust_accuracy", "model": m, "value": 0.5, "n": n} for m, n in (("pgd", 1500), ("dp", 150))]
    assert [condition for condition, _ in index._conditions(rows, 0.1, ())] == [
        "150\N{NO-BREAK SPACE}or\N{NO-BREAK SPACE}1,500\N{NO-BREAK SPACE}images"
    ]
