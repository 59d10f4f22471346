"""The page in a real browser: every control works, and the console stays silent."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_fixtures
import pytest

from prefilltune.tuning.page.data import page_data
from prefilltune.tuning.page.rendering import render
from prefilltune.tuning.page.views import options

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra [dev]")
pytest.importorskip("vl_convert", reason="needs the extra [report]")

pytestmark = pytest.mark.slow

#: Under which names a system has it.
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Rules that say what people with impairments can use: WCAG 2.2 A and AA.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}

#: Whether the clipboard does.
HOLDS = "text => navigator.clipboard.readText().then(held => held === text)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("needs Chromium on the PATH, which is on no package index for Python; "
                    "run: apt-get install chromium")  # fmt: skip
    with playwright.sync_playwright() as running:
        # CI is root, whom Chromium's own sandbox does not take.
        launched = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    targets = page_fixtures.compared(folder / "database")
    data = page_data(targets, page_fixtures.changed(targets), "HEAD~1")
    cases = [each for target in targets for each in target.comparisons]
    path = folder / "report.html"
    path.write_text(render(data, options(cases)), encoding="utf-8")
    return path


@pytest.fixture
def said() -> list[str]:
    """What the console says: nothing, as each test that takes a page asserts at its end."""
    return []


@pytest.fixture
def page(browser: Any, file: Path, said: list[str]) -> Iterator[Any]:
    context = browser.new_context(accept_downloads=True, viewport={"width": 1280, "height": 800})
    opened = _open(context, file, said)
    yield opened
    assert said == []
    context.close()


def _open(context: Any, file: Path, said: list[str], part: str = "") -> Any:
    opened = context.new_page()
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: _local(request.url, said))
    opened.goto(file.as_uri() + part)
    opened.wait_for_selector("html[data-ready]")
    return opened


def _local(url: str, said: list[str]) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        said.append(f"asked for {url}")


def test_the_first_screen_and_its_switches(page: Any) -> None:
    gpu, cpu = page.locator("article.device").all()
    assert "On a GPU, tuned kernels are" in gpu.locator(".sentence").inner_text()
    assert "ahead in 1 of 2 cases" in cpu.locator(".sentence").inner_text()
    assert gpu.locator(".chart svg").count() == 1
    assert "tuned is" in gpu.locator(".chart svg").text_content()
    page.locator(".switches").get_by_label("mixed").check()
    page.wait_for_function("document.querySelectorAll('#case-table tbody tr').length === 2")
    assert "ahead in the one case" in gpu.locator(".sentence").inner_text()
    page.locator(".switches").get_by_label("bfloat16").check()
    page.wait_for_function("document.querySelectorAll('#case-table tbody tr').length === 0")
    assert "fits this choice" in gpu.locator(".sentence").inner_text()
    assert not gpu.locator(".chart").is_visible()
    for each in page.locator(".switches input[value=all]").all():
        each.check()
    select = page.get_by_label("Model")
    values = [each.get_attribute("value") for each in select.locator("option").all()]
    for value in values[::-1]:
        select.select_option(value)
        count = page.locator("#case-count").inner_text()
        assert not count.startswith("0 ")
    assert page.locator("#case-table tbody tr").count() == 5


def test_tables_sort_and_figures_are_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for table in ("#case-table", "#change-table"):
        for heading in page.locator(f"{table} thead button").all():
            for order in ("ascending", "descending"):
                place = heading.locator("..")
                if place.get_attribute("aria-sort") != order:
                    heading.click()
                if place.get_attribute("aria-sort") != order:
                    heading.click()
                assert place.get_attribute("aria-sort") == order
    page.locator("#case-table thead button", has_text="ms").first.click()
    column = page.locator("#case-table tbody td[data-copy]:nth-child(4)")
    times = [float(each) for each in column.evaluate_all("all => all.map(e => e.dataset.copy)")]
    assert times == sorted(times, reverse=True)
    copied = column.first.get_attribute("data-copy")
    column.first.click()
    page.wait_for_function(HOLDS, arg=copied)
    page.locator("#said", has_text=f"Copied {copied}").wait_for()


def test_a_case_by_keys_alone(page: Any) -> None:
    page.locator("#case-table .open").first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog#case")
    title = dialog.locator("#case-title").inner_text()
    address = page.evaluate("location.hash")
    page.keyboard.press("ArrowRight")
    assert dialog.locator("#case-title").inner_text() != title
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("#case-title").inner_text() == title
    assert page.evaluate("location.hash") == address
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.wait_for_function("location.hash === ''")  # the dialog says a little later that it closed
    assert page.evaluate("document.activeElement.className") == "open"


def test_all_that_is_known_of_a_case(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#case-table tr", has_text="<a & CPU>").locator(".open").first.click()
    dialog = page.locator("dialog#case")
    for part in ("latency", "roofline"):
        dialog.locator(f"[data-chart={part}] svg").wait_for()
    for words in ("query rows by 32 keys", "operations a byte", "largest error", "llvm_fused"):
        assert dialog.get_by_text(words).first.is_visible()
    for stage, words in (("plain", "T.prim_func"), ("online", "for"), ("tiled", "T.prim_func")):
        dialog.get_by_role("tab", name=stage).click()
        page.wait_for_function(
            "words => document.querySelector('dialog pre').textContent.includes(words)", arg=words
        )
    dialog.get_by_role("tab", name="tiled").press("ArrowRight")
    assert dialog.get_by_role("tab", name="plain").get_attribute("aria-selected") == "true"
    commands = dialog.locator(".command").all()
    assert len(commands) == 4
    for command in commands:
        command.locator("button").click()
        page.wait_for_function(HOLDS, arg=command.locator("code").inner_text())
    for heading in dialog.locator("thead button").all():
        heading.click()
    for name in ("Next", "Previous", "Close"):
        dialog.get_by_role("button", name=name).click()
    assert not dialog.is_visible()


def test_a_dot_opens_its_case_and_so_does_an_address(
    page: Any, browser: Any, file: Path, said: list[str]
) -> None:
    dots = page.locator("[data-chart=cases] svg .mark-symbol.role-mark path")
    dots.first.click(force=True)
    page.locator("dialog#case h2").wait_for()
    address = page.evaluate("location.hash")
    title = page.locator("dialog#case h2").inner_text()
    context = browser.new_context()
    again = _open(context, file, said, address)
    assert again.locator("dialog#case h2").inner_text() == title
    context.close()


def test_the_search_and_the_lengths(page: Any) -> None:
    gpu, cpu = page.locator("#search article").all()
    assert "were not kept" in gpu.inner_text()
    assert "6 candidates were measured for 1 case," in cpu.inner_text()
    axis = cpu.locator("[data-chart=falls] svg")
    assert "trials" in axis.text_content()
    cpu.get_by_label("time", exact=True).check()
    page.wait_for_function(
        "document.querySelector('[data-chart=falls] svg').textContent.includes('seconds')"
    )
    cpu.locator(".search-case").select_option("0")
    assert "wrong result" in cpu.locator("[data-chart=failures] svg").text_content()
    assert "q tile 32" in cpu.locator("[data-chart=habits] svg").text_content()
    (served,) = page.locator("#lengths article").all()
    served.locator(".served-spec").select_option("0")
    assert "At most 0.0%" in served.inner_text()
    assert served.locator("[data-chart=served] svg").is_visible()
    assert served.locator("tbody tr").count() >= 2


def test_what_is_shown_is_downloaded(page: Any, tmp_path: Path) -> None:
    page.locator(".switches").get_by_label("full").check()
    page.wait_for_function("document.querySelectorAll('#case-table tbody tr').length === 3")
    for name in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {name}").click()
        download.value.save_as(tmp_path / name)
    with (tmp_path / "CSV").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {each["lengths"] for each in rows} == {"full"}
    assert {float(each["ms"]) for each in rows if each["kernel"] == "tuned"} == {0.25, 0.5, 0.6}
    assert "ImportError: no varlen attention" in {each["remark"] for each in rows}
    assert len(json.loads((tmp_path / "JSON").read_text(encoding="utf-8"))) == 3


def test_what_changed(page: Any) -> None:
    rows = page.locator("#change-table tbody tr")
    kinds = rows.locator("td:first-child").all_inner_texts()
    assert kinds == ["worse", "gone", "better", "new", "same", "same"]
    rows.first.get_by_role("button").click()
    assert page.locator("dialog#case").is_visible()


def test_people_of_all_kinds_can_read_it(page: Any) -> None:
    checker = axe.Axe()
    assert _breaches(checker, page) == []
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    assert _breaches(checker, page) == []
    page.locator("#case-table tr", has_text="CPU").locator(".open").first.click()
    page.locator("dialog [data-chart=roofline] svg").wait_for()
    assert _breaches(checker, page) == []


def _breaches(checker: Any, page: Any) -> list[tuple[str, str]]:
    found = checker.run(page, options=RULES).response["violations"]
    return [(each["id"], node["html"]) for each in found for node in each["nodes"]]


def test_the_theme_is_chosen_and_kept(page: Any) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    button, light = page.locator("#theme"), page.evaluate(ground)
    button.click()
    assert (button.inner_text(), page.evaluate(ground)) == ("Theme: light", light)
    button.click()
    assert button.inner_text() == "Theme: dark"
    assert page.evaluate(ground) != light
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert button.inner_text() == "Theme: dark"
    button.click()
    assert button.inner_text() == "Theme: automatic"


def test_it_fits_a_phone_and_is_printed(browser: Any, file: Path, said: list[str]) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = _open(context, file, said)
    wide = "e => e.scrollWidth > e.clientWidth + 1"
    assert not page.evaluate(f"({wide})(document.documentElement)")
    page.locator("#case-table .open").first.click()
    assert not page.locator("dialog#case").evaluate(wide)
    page.keyboard.press("Escape")
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(link.get_attribute("href")).is_visible()
    assert page.pdf().startswith(b"%PDF")
    assert said == []
    context.close()
