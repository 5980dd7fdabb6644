"""The page of report.py in a browser: headless Chromium reads and uses it as a person does.

Skipped where Chromium with its driver, selenium or axe-core is missing; .ci/run installs them.
"""

import csv
import json
import shutil
import time

import pytest

import report
from reports import HOSTILE, panel, plain
from runtime.files import ROOT

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="no selenium: pip install -r requirements-dev.txt"
)
from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
DRIVER = shutil.which("chromedriver") or ""
AXE = ROOT / "node_modules/axe-core/axe.min.js"
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)
WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = Options()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(300)  # axe on a busy machine
    driver.downloads = tmp_path_factory.mktemp("downloads")
    behaviour = {"behavior": "allow", "downloadPath": str(driver.downloads)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    made = {"panel": panel(root / "panel"), "plain": plain(root / "plain", seeds=3)}
    return {name: report.write_report([folder]) for name, folder in made.items()}


@pytest.fixture
def plain_page(browser, pages):
    return opened(browser, pages["plain"])


def opened(browser, path, width=1280, scheme="light"):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    media = [{"name": name, "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": media})
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what came before is none of this page's
    browser.get(path.as_uri())
    return browser


def click(element):
    """Where no bar at the top covers it."""
    element.parent.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def rows_of(page):
    body = page.find_element(By.CSS_SELECTOR, "#browser tbody")
    return [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
        for row in body.find_elements(By.TAG_NAME, "tr")
    ]


def column(page, name):
    heads = [th.text.split(" ")[0] for th in page.find_elements(By.CSS_SELECTOR, "#browser th")]
    at = heads.index(name)
    return [row[at] for row in rows_of(page)]


def found(page):
    return page.find_element(By.ID, "found").text


def choose(page, name, value):
    Select(page.find_element(By.NAME, name)).select_by_visible_text(value)


def downloaded(browser, name):
    """The text of a file once it is there whole; the browser renames it at the end."""
    path = browser.downloads / name
    for _ in range(200):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            path.unlink()
            return text
        time.sleep(0.05)
    raise AssertionError(f"{name} was not saved; there are {list(browser.downloads.iterdir())}")


# ------------------------------------------------------------------------------------------------
# what the browser says
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["panel", "plain"])
def test_no_request_leaves_and_nothing_is_refused(browser, pages, name):
    page = opened(browser, pages[name])
    click(page.find_element(By.ID, "json"))
    downloaded(browser, "report.json")
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
    first, *others = [m["params"]["request"]["url"] for m in asked]
    assert first == pages[name].as_uri()
    assert all(url.startswith("blob:") for url in others)  # what is saved
    assert page.get_log("browser") == []  # neither an error nor a breach of the policy


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core: npm install --no-save axe-core")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["panel", "plain"])
def test_axe_finds_nothing_serious(browser, pages, name, width, scheme):
    page = opened(browser, pages[name], width, scheme)
    page.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    page.execute_script(AXE.read_text(encoding="utf-8"))
    results = page.execute_async_script(
        "const done = arguments[0]; axe.run(document).then(done, (error) => done(String(error)))"
    )
    assert len(results["passes"]) > 20
    assert [
        (broken["id"], broken["impact"], [node["html"][:120] for node in broken["nodes"][:3]])
        for broken in results["violations"]
    ] == []


@pytest.mark.parametrize("width", [360, 768, 1600])
@pytest.mark.parametrize("name", ["panel", "plain"])
def test_only_figures_and_tables_scroll_sideways(browser, pages, name, width):
    page = opened(browser, pages[name], width)
    page.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_figures_are_dark_on_light_and_light_on_dark(browser, pages):
    def colours(scheme):
        page = opened(browser, pages["panel"], scheme=scheme)
        text = "return getComputedStyle(document.querySelector('#r0-budget svg text')).fill"
        paper = "return getComputedStyle(document.body).backgroundColor"
        found = [page.execute_script(script) for script in (text, paper)]
        return [sum(map(float, f[f.index("(") + 1 : -1].split(",")[:3])) for f in found]

    ink, paper = colours("light")
    assert (ink < 150, paper > 700) == (True, True)
    ink, paper = colours("dark")
    assert (ink > 600, paper < 100) == (True, True)


# ------------------------------------------------------------------------------------------------
# examples
# ------------------------------------------------------------------------------------------------


def test_examples_are_filtered_by_text_source_outcome_and_right_or_wrong(plain_page):
    page = plain_page
    assert found(page) == "152 of 152 examples; 1 to 50 shown"
    search = page.find_element(By.NAME, "text")
    search.send_keys("2 + ")
    expected = [i for i in range(1, 131) if i % 10 == 2]
    assert found(page).startswith(f"{len(expected)} of 152")
    assert column(page, "prompt") == [f"[add] {i} + {i}" for i in expected]
    search.send_keys("no such text")
    assert found(page) == "No example fits the filter."
    assert rows_of(page) == []
    search.clear()
    search.send_keys(" ", Keys.BACKSPACE)
    choose(page, "source", "extrap copy")
    assert found(page).startswith("20 of 152")
    assert set(column(page, "task")) == {"copy"}
    assert set(column(page, "outcome")) == {"ran on"}
    choose(page, "right", "right")
    assert found(page) == "No example fits the filter."
    choose(page, "source", "all")
    assert found(page).startswith("87 of 152")
    assert set(column(page, "outcome")) == {"right"}
    choose(page, "right", "wrong")
    choose(page, "outcome", "wrong content")
    choose(page, "task", "add")
    assert found(page).startswith("43 of 152")


def test_wrong_characters_are_marked(plain_page):
    plain_page.find_element(By.NAME, "text").send_keys("[add] 6 + 6")
    marks = plain_page.find_elements(By.CSS_SELECTOR, "#browser tbody tr:first-child mark")
    assert column(plain_page, "prediction")[0] == "13"
    assert [mark.text for mark in marks] == ["3"]


def test_examples_are_sorted_by_each_column(plain_page):
    heads = plain_page.find_elements(By.CSS_SELECTOR, "#browser th button")
    assert len(heads) == 7
    for at, head in enumerate(heads):
        for _ in range(2):
            click(head)
            cell = head.find_element(By.XPATH, "..")
            shown = [row[at] for row in rows_of(plain_page)]
            if cell.get_attribute("class") == "bits":
                shown = [float(text.replace("−", "-")) for text in shown]
            down = cell.get_attribute("aria-sort") == "descending"
            assert shown == sorted(shown, reverse=down)
    sorted_heads = plain_page.find_elements(By.CSS_SELECTOR, "#browser th[aria-sort]")
    assert [th.text.split()[0] for th in sorted_heads] == ["task"]


def test_pages_of_the_table_are_turned(plain_page):
    back, forth = plain_page.find_elements(By.CSS_SELECTOR, "#pager button")[:2]
    assert (back.is_enabled(), forth.is_enabled()) == (False, True)
    first = column(plain_page, "prompt")
    for _ in range(3):
        click(forth)
    assert found(plain_page) == "152 of 152 examples; 151 to 152 shown"
    assert (back.is_enabled(), forth.is_enabled()) == (True, False)
    for _ in range(3):
        click(back)
    assert column(plain_page, "prompt") == first


def test_texts_of_the_data_do_nothing(plain_page):
    page = plain_page
    choose(page, "source", "robustness")
    assert column(page, "prompt") == [f"[rev] {prompt}" for prompt, *_ in HOSTILE]
    assert column(page, "answer") == [answer for _, answer, _ in HOSTILE]
    assert column(page, "prediction") == [said for *_, said in HOSTILE]
    assert page.title == "plain – memory or rule?"
    assert page.find_elements(By.CSS_SELECTOR, "main b, main img, main script") == []


def test_the_keyboard_is_enough(plain_page):
    page = plain_page
    page.find_element(By.NAME, "text").send_keys("[copy]", Keys.TAB)
    for _ in range(60):
        focus = page.switch_to.active_element
        if focus.text.startswith("prompt"):
            break
        focus.send_keys(Keys.TAB)
    focus.send_keys(Keys.ENTER)
    shown = column(page, "prompt")
    assert shown == sorted(shown)
    assert len(shown) == 20
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert column(page, "prompt") == shown[::-1]
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.execute_script(outline) == "solid"


# ------------------------------------------------------------------------------------------------
# figures
# ------------------------------------------------------------------------------------------------


def test_seeds_are_hidden_and_shown(plain_page):
    page = plain_page

    def visible():
        curves = page.find_elements(By.CSS_SELECTOR, ".seed")
        return sorted({c.get_attribute("data-seed") for c in curves if c.is_displayed()})

    assert visible() == ["0", "1", "2"]
    chip = page.find_element(By.CSS_SELECTOR, '.seeds [data-seed="1"]')
    click(chip)
    assert visible() == ["0", "2"]
    assert chip.get_attribute("aria-pressed") == "false"
    click(chip)
    assert visible() == ["0", "1", "2"]
    everything, nothing = page.find_elements(By.CSS_SELECTOR, ".seeds [data-all]")
    click(nothing)
    assert visible() == []
    click(everything)
    assert visible() == ["0", "1", "2"]


def test_the_pointer_reads_a_value(plain_page):
    page = plain_page
    points = page.execute_script(
        "return JSON.parse(document.getElementById('data').textContent).hover['r0-forest']"
    )
    x, y, text = points[0]
    page.execute_script(
        """
        const svg = document.querySelector('#r0-forest svg'), [x, y] = arguments;
        svg.scrollIntoView();
        const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
        const where = {clientX: at.x, clientY: at.y, bubbles: true};
        svg.dispatchEvent(new PointerEvent('pointermove', where));
        """,
        x,
        y,
    )
    tip = page.find_element(By.ID, "tip")
    assert (tip.is_displayed(), tip.text) == (True, text)
    page.execute_script(
        "document.querySelector('#r0-forest svg').dispatchEvent(new PointerEvent('pointerleave'))"
    )
    assert not tip.is_displayed()


def test_points_that_are_read_lie_on_what_is_drawn(browser, pages):
    """The first bar of the budget is there where its value is read."""
    page = opened(browser, pages["panel"])
    tags = page.execute_script(
        """
        const svg = document.querySelector('#r0-budget svg');
        svg.scrollIntoView({block: 'center'});
        const points = JSON.parse(document.getElementById('data').textContent).hover['r0-budget'];
        return points.filter((p) => p[2].startsWith('memory')).map((p) => {
          const at = new DOMPoint(p[0], p[1]).matrixTransform(svg.getScreenCTM());
          const there = document.elementsFromPoint(at.x, at.y);
          return there.some((e) => getComputedStyle(e).fill === 'rgb(213, 94, 0)');
        });
        """
    )
    assert len(tags) > 0
    assert all(tags)


# ------------------------------------------------------------------------------------------------
# downloads, print, no JavaScript
# ------------------------------------------------------------------------------------------------


def test_tables_examples_and_numbers_are_saved(browser, plain_page):
    page = plain_page
    page.execute_script("document.querySelector('#r0-forest details').open = true")
    click(page.find_element(By.CSS_SELECTOR, "#r0-forest .save"))
    rows = list(csv.reader(downloaded(browser, "r0-forest-table.csv").splitlines()))
    assert rows[0][:3] == ["category, suite", "n", "exact match"]
    assert rows[1][0] == "interpolation"

    choose(page, "source", "robustness")
    click(page.find_element(By.ID, "found-csv"))
    text = downloaded(browser, "examples.csv")
    found_rows = list(csv.DictReader(text.splitlines()))
    assert [row["prompt"] for row in found_rows] == [f"[rev] {prompt}" for prompt, *_ in HOSTILE]
    assert found_rows[1]["answer"] == "'=1+1"  # no formula to a spreadsheet
    click(page.find_element(By.ID, "csv"))
    assert len(downloaded(browser, "examples.csv").splitlines()) == 153

    click(page.find_element(By.ID, "json"))
    numbers = json.loads(downloaded(browser, "report.json"))["runs"]["plain"]
    assert numbers["ood"]["headline"]["interpolation"]["n"] > 0
    assert numbers["config"]["begun"] == "2026-11-27 08:00 UTC"
    assert [curve["seed"] for curve in numbers["learning"]] == [0, 1, 2]


def test_without_javascript_the_page_is_whole(browser, pages):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page = opened(browser, pages["plain"])
        assert page.find_element(By.CSS_SELECTOR, ".card .said").is_displayed()
        assert len(rows_of(page)) == 25
        assert not page.find_element(By.ID, "filter").is_displayed()
        assert not page.find_element(By.CSS_SELECTOR, ".seeds").is_displayed()
        summary = page.find_element(By.CSS_SELECTOR, "#r0-forest summary")
        summary.send_keys(Keys.ENTER)
        assert page.find_element(By.ID, "r0-forest-table").is_displayed()
        buttons = page.find_elements(By.TAG_NAME, "button")
        assert [button.text for button in buttons if button.is_displayed()] == []
        assert "The first 25 of 152" in page.find_element(By.ID, "examples").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_it_prints_light_and_with_its_tables(browser, pages):
    page = opened(browser, pages["plain"], scheme="dark")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert not page.find_element(By.TAG_NAME, "nav").is_displayed()
    assert not page.find_element(By.ID, "filter").is_displayed()
    assert page.find_element(By.ID, "r0-forest-table").is_displayed()
    colour = "return getComputedStyle(document.body).color"
    assert page.execute_script(colour) == "rgb(30, 34, 39)"
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert not page.find_element(By.ID, "r0-forest-table").is_displayed()
