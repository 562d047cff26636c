"""The HTML report: self-contained, safe with any text, and alive in a real browser where there is one."""

import base64
import json
import math
import os
import re
import shutil
import subprocess
import time
from html import unescape

import pytest

from elmanctl.files import write_json
from elmanctl.gpus import verdict
from elmanctl.report import collect, curves, html, render, rows

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt install chromium)")
EVIL = '</script><script>document.title="owned"</script><b onmouseover=x>&"\''

# What a reader does, and what the page then shows, told through the title of the page.
PROBE = """
<script>{
onerror = text => document.body.replaceChildren(JSON.stringify({error: text}));
const said = {};
const names = () => [...document.querySelector("table.sortable").tBodies[0].rows].map(r => r.cells[0].textContent);
const head = text => [...document.querySelectorAll("table.sortable th button")].find(b => b.textContent === text);
const curves = () => document.querySelectorAll("#curves path[data-label]").length;
const ticks = () => [...document.querySelectorAll("#curves svg text")].map(t => t.textContent);
said.title = document.title;
said.ranked = names();
head("tok/s").click(); said.slowest_first = names();
head("tok/s").click(); said.fastest_first = names();
head("model").click(); said.by_name = names();
said.curves = curves();
said.steps = ticks();
document.querySelector("input[value=seconds]").click(); said.seconds = ticks();
document.querySelector("#legend button").click(); said.after_hiding = curves();
document.querySelector("#late").click(); said.late = ticks();
const svg = document.querySelector("#curves svg"), box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * .6, clientY: box.top + 50}));
said.tip = [...document.querySelectorAll("#curves .tip div")].map(d => d.textContent);
const path = () => document.querySelector("#curves path[data-label]").getAttribute("d");
const rough = path();
document.querySelector("#smooth").click(); said.smoothed = path() !== rough && !path().includes("NaN");
said.front = !!document.querySelector("#front");
said.points = document.querySelectorAll("#scatter circle").length;
said.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
said.hidden_in_print = getComputedStyle(document.querySelector(".controls")).display;
document.body.replaceChildren(JSON.stringify(said));
}</script>
"""


@pytest.fixture
def page(make_run, tmp_path):
    """Return a function that writes a report and returns its path."""

    def write(entries, name="out.html", **how):
        collected = collect.collect([make_run(entries, **how)])
        path = tmp_path / name
        path.write_text(html.page(rows.of(collected), collected))
        return path

    return write


def browse(path, *arguments):
    """Run a headless Chromium on a file and return its standard output."""
    profile = path.parent / "profile"
    call = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
    call += ["--allow-file-access-from-files", "--virtual-time-budget=3000", *arguments, path.as_uri()]
    return subprocess.run(call, capture_output=True, text=True, timeout=120, check=True).stdout


def probe(path, *arguments):
    """Return what PROBE saw in the page."""
    probed = path.with_name("probed.html")
    probed.write_text(path.read_text().replace("</body>", PROBE + "</body>"))
    return json.loads(
        unescape(re.search(r"<body>(.*?)</body>", browse(probed, "--dump-dom", *arguments), re.DOTALL)[1])
    )


THREE = {
    "good": {"offset": -0.1, "tokens_per_second": 900.0},
    "fast": {"step_seconds": 0.25, "tokens_per_second": 2000.0},
    "bad": {"offset": 0.1, "tokens_per_second": 500.0},
}


def test_the_file_is_whole_by_itself(page):
    text = page(THREE).read_text()
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name of the SVG language, which nothing fetches
    assert not re.search(r"<(link|img|iframe)|\bsrc=|@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [row["label"] for row in data["rows"] if row["front"]] == ["good", "fast"]
    assert len(data["curves"]) == 3 and all(
        len(c["loss"]) == len(c["seconds"]) <= curves.POINTS for c in data["curves"]
    )


def test_without_javascript_the_tables_are_there(page):
    text = page(THREE).read_text().split("<script")[0]
    for needed in ("0123456789ab", "NVIDIA H200", "torch 2.13.0", "What is known", "at equal tokens", "3 GiB", "good"):
        assert needed in text


def test_a_curve_has_few_points_more_of_them_early_and_its_very_end():
    for steps in (1, 2, 239, 240, 241, 20_000):
        ends = curves.bins(steps)
        assert ends[-1] == steps and 0 < ends[0] <= 6 and len(ends) <= curves.POINTS and (ends[1:] > ends[:-1]).all()


def test_what_was_seen_beside_the_runs_is_in_every_form(make_run):
    folder = make_run({"a": {}, "b": {}})
    write_json(
        folder / "b" / verdict.VERDICT,
        verdict.Verdict(verdict="clean", samples=9, clock=1980.0, power=612.4, temperature_max=61),
    )
    collected = collect.collect([folder])
    report = rows.of(collected)
    told = "clean: 1980 MHz, 612 W, at most 61 C"
    assert {row.label: row.witness for row in report.rows} == {"a": "", "b": told}
    assert f"<td>{told}</td>" in html.page(report, collected)
    assert f"* Seen beside the runs on their GPUs: b {told}." in render.markdown(report)


def test_no_text_of_a_record_becomes_markup(page):
    text = page({EVIL.replace("/", "_"): {"message": EVIL}, "b": {}}, description=EVIL, suite=EVIL).read_text()
    assert text.count("<script") == 2 and "<b onmouseover" not in text


def test_a_run_without_a_single_number_still_makes_a_page(page):
    text = page({"a": None, "b": {"steps": 5, "status": "failed", "heldout": False}}).read_text()
    assert "waiting" in text and "no two finished rows" in text


@needs_browser
def test_in_a_browser_tables_sort_curves_switch_and_hover_tells(page):
    said = probe(page(THREE, suite=EVIL), "--window-size=1280,900")
    assert EVIL in said["title"]
    assert said["ranked"] == ["good (gru)", "fast (gru)", "bad (gru)"]
    assert said["slowest_first"] == ["bad (gru)", "good (gru)", "fast (gru)"] == said["fastest_first"][::-1]
    assert said["by_name"] == ["bad (gru)", "fast (gru)", "good (gru)"]
    assert (said["curves"], said["after_hiding"], said["points"], said["front"]) == (3, 2, 3, True)
    assert "steps" in said["steps"] and "seconds of training" in said["seconds"] and "0" not in said["late"]
    assert said["smoothed"]
    assert said["tip"][0].endswith("seconds of training") and said["tip"][1].startswith("bad: ")
    assert re.fullmatch(r"bad: \d\.\d{4}", said["tip"][1]) and said["overflow"] == 0


@needs_browser
def test_on_a_phone_only_tables_scroll(page, tmp_path):
    page(THREE)
    frame = tmp_path / "phone.html"
    frame.write_text(
        '<body><iframe src="out.html" style="width:390px;height:800px"></iframe><script>onload = () => {'
        'const d = document.querySelector("iframe").contentDocument.documentElement;'
        "document.body.replaceChildren(JSON.stringify([d.clientWidth, d.scrollWidth])) }</script></body>"
    )
    width, needed = json.loads(re.search(r"<body>(.*?)</body>", browse(frame, "--dump-dom"), re.DOTALL)[1])
    assert width == needed == 390


# Counts, in a picture, the pixels of each colour asked for, and the share of the paper.
LOOK = """
<body><img src="data:image/png;base64,%s"><script>onload = () => {
const img = document.querySelector("img"), canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
const pen = canvas.getContext("2d");
pen.drawImage(img, 0, 0);
const pixels = new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer), found = new Map();
for (const pixel of pixels) found.set(pixel, (found.get(pixel) || 0) + 1);
const number = text => parseInt("ff" + text.slice(5, 7) + text.slice(3, 5) + text.slice(1, 3), 16); // as the bytes lie in memory
document.body.replaceChildren(JSON.stringify({size: [canvas.width, canvas.height], found: %s.map(text => found.get(number(text)) || 0)}));
}</script></body>"""


def seen(picture, colours):
    """Return width and height of a picture, and the share of its pixels that have each colour."""
    place = picture.with_name("look.html")
    place.write_text(LOOK % (base64.b64encode(picture.read_bytes()).decode(), json.dumps(colours)))
    look = json.loads(unescape(re.search(r"<body>(.*?)</body>", browse(place, "--dump-dom"), re.DOTALL)[1]))
    return look["size"], [count / math.prod(look["size"]) for count in look["found"]]


@needs_browser
@pytest.mark.parametrize("width", [1280, 500])
def test_a_screenshot_shows_the_curve_dot_and_bar_of_every_row(page, tmp_path, width):
    path = page(THREE)
    browse(path, f"--screenshot={tmp_path / 'out.png'}", f"--window-size={width},3000")
    size, (paper, *each) = seen(tmp_path / "out.png", ["#ffffff", *html.COLOURS[:3]])
    assert size == [width, 3000] and 0.6 < paper < 0.98
    # The shortest bar of memory alone is a seventh of the page wide and 10 pixels high.
    assert all(share > 10 / 3000 / 7 + 500 / math.prod(size) for share in each), each


@needs_browser
def test_on_paper_every_chart_is_on_one_page_with_its_heading(page, tmp_path):
    browse(page(THREE), f"--print-to-pdf={tmp_path / 'out.pdf'}")
    pdf = (tmp_path / "out.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and 3 <= int(re.search(rb"/Count (\d+)", pdf)[1]) <= 4


def test_fifty_runs_of_20_000_steps_take_less_than_five_seconds(make_run, record_property):
    folder = make_run({f"m{i:02d}": {"steps": 150 if i else 20_000, "heldout": False} for i in range(50)})
    whole = folder / "m00" / "steps.jsonl"
    for i in range(1, 50):
        path = folder / f"m{i:02d}" / "steps.jsonl"
        path.unlink()
        os.link(whole, path)
    before = time.process_time()
    collected = collect.collect([folder])
    text = html.page(rows.of(collected), collected)
    record_property("seconds", taken := time.process_time() - before)
    assert taken < 5
    assert sum(len(e.series.steps) for e in collected.entries) == 1_000_000 and len(text) < 2_000_000
