"""What a reader does with the report: choosing runs, drawing frames, grouping, saving, going back by a link."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from runner.records import find
from runner.records.paths import SweepFolder

pytestmark = pytest.mark.slow


def chosen(page):
    """The labels of the runs that are chosen, by the table's boxes."""
    boxes = "[...document.querySelectorAll('#table .tabulator-row input:checked')]"
    return page.tab.evaluate(f"{boxes}.map((box) => box.getAttribute('aria-label').split(' ').at(-1))")


def labels(swept, sweep):
    return [row.label for row in find.read_rows(SweepFolder(swept / sweep))]


def choose(page, *names):
    for name in names:
        page.tab.get_by_label(f"choose run {name}").check()
    page.tab.wait_for_timeout(300)


def drawn(page, part):
    """The part, once it is drawn."""
    page.tab.evaluate("(id) => { showPart(id); document.getElementById(id).fill?.() }", part)
    page.tab.wait_for_selector(f"#{part} .chart svg")
    page.tab.wait_for_timeout(150)
    return page.tab.locator(f"#{part}")


def drag(page, svg, start, end):
    """Drags over `svg` between two places, as shares of its width and height."""
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.tab.mouse.move(*places[0])
    page.tab.mouse.down()
    page.tab.mouse.move(*places[1], steps=5)
    page.tab.mouse.up()
    page.tab.wait_for_timeout(400)


@pytest.mark.parametrize(
    ("sweep", "first", "folded"),
    [("hostile", "losses", "times"), ("mixed", "times", "outputs"), ("searched", "trials", "phases")],
)
def test_subject_comes_first_and_others_fold(sweep, first, folded, opened):
    page = opened(sweep)
    parts = page.tab.evaluate("[...document.querySelectorAll('#figures > section')].map((part) => part.id)")
    assert parts[0] == first
    assert page.tab.locator(f"#{first} > details").get_attribute("open") is not None
    part = page.tab.locator(f"#{folded} > details")
    assert part.get_attribute("open") is None
    part.locator("> summary").click()
    page.tab.wait_for_selector(f"#{folded} .chart svg")


def test_folded_parts_open_from_the_list_of_parts(opened):
    page = opened("hostile")
    page.tab.locator("#parts a", has_text="Phases").click()
    page.tab.wait_for_selector("#phases .chart svg")
    assert "open=phases" in page.tab.url


def test_chosen_runs_overlay_their_losses(opened, swept):
    names = labels(swept, "hostile")[:2]
    page = opened("hostile")
    choose(page, *names)
    assert "2 runs chosen" in page.tab.text_content("#choice")
    part = drawn(page, "chosen")
    assert part.locator(".chart svg [aria-label=line] path").count() == 2
    assert [name in part.locator(".legend").text_content() for name in names] == [True, True]


def test_two_runs_side_by_side_show_what_differs(opened, swept):
    first, second, *_ = find.read_rows(SweepFolder(swept / "hostile"))
    page = opened("hostile")
    choose(page, first.label, second.label)
    drawn(page, "chosen")
    lines = {
        line.locator("th").first.text_content(): line.locator("td").all_text_contents()
        for line in page.tab.locator("#chosen table tbody tr").all()
    }
    assert lines["features"][:2] == ["4", "8"]
    saved = [first.checkpoint_bytes, second.checkpoint_bytes]
    assert lines["saved"][2] == f"{saved[1] / saved[0]:.3g} ×"
    assert "different" not in (page.tab.locator("#chosen tr", has_text="steps").first.get_attribute("class") or "")


def test_a_frame_in_the_scatter_chooses_table_rows(opened, swept):
    page = opened("hostile", "#x=set.features&y=seed")
    svg = drawn(page, "scatter").locator(".chart svg")
    drag(page, svg, (0.6, 0.01), (0.99, 0.95))
    rows = find.read_rows(SweepFolder(swept / "hostile"))
    assert sorted(chosen(page)) == sorted(row.label for row in rows if row.settings["features"] == 8)
    assert page.tab.locator("#table .tabulator-row.chosen").count() == 3


def test_a_click_on_a_dot_chooses_its_run(opened, swept):
    page = opened("hostile", "#x=set.features&y=output_norm")
    circle = drawn(page, "scatter").locator("[aria-label=dot] circle")
    for count in (1, 0):
        circle.first.scroll_into_view_if_needed()
        box = circle.first.bounding_box()
        page.tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.tab.wait_for_timeout(400)
        assert len(chosen(page)) == count


def test_scatter_takes_colour_and_facets(opened):
    page = opened("hostile")
    part = drawn(page, "scatter")
    page.tab.select_option("#choose-color", "set.seed")
    drawn(page, "scatter")
    assert part.locator(".legend li").all_text_contents() == [" 0", " 1", " 2"]
    page.tab.select_option("#choose-facet", "set.features")
    drawn(page, "scatter")
    assert [text[-10:] for text in part.locator("figcaption").all_text_contents()] == ["features 4", "features 8"]
    assert part.locator("[aria-label=dot] circle").count() == 6
    assert page.tab.evaluate("document.activeElement.id") == "choose-facet"


def test_ranges_on_parallel_axes_choose_runs(opened, swept):
    page = opened("hostile", "#axes=set.seed,set.features,output_norm")
    part = drawn(page, "parallel")
    assert part.locator(".lines path").count() == 6
    axis = part.locator(".brush").nth(1)
    box = axis.locator(".overlay").bounding_box()
    x = box["x"] + box["width"] / 2
    page.tab.mouse.move(x, box["y"] + 1)
    page.tab.mouse.down()
    page.tab.mouse.move(x, box["y"] + box["height"] / 2, steps=5)
    page.tab.mouse.up()
    page.tab.wait_for_timeout(400)
    rows = find.read_rows(SweepFolder(swept / "hostile"))
    assert sorted(chosen(page)) == sorted(row.label for row in rows if row.settings["features"] == 8)


def test_axes_are_chosen_by_boxes(opened):
    page = opened("hostile", "#axes=set.seed,output_norm")
    part = drawn(page, "parallel")
    part.locator("details.axes summary").click()
    part.get_by_label("params", exact=True).check()
    drawn(page, "parallel")
    assert part.locator("figcaption").text_content() == "seed, output norm, params"


def test_only_chosen_runs_are_shown(opened, swept):
    names = labels(swept, "hostile")[1:3]
    page = opened("hostile")
    choose(page, *names)
    page.tab.get_by_role("button", name="Show only these").click()
    page.tab.wait_for_timeout(300)
    assert page.count() == "2 of 6 runs"
    page.tab.get_by_role("button", name="Show all runs").click()
    page.tab.wait_for_timeout(300)
    assert page.count() == "6 runs"


def test_groups_are_relative_to_their_baseline(opened, swept):
    page = opened("hostile")
    part = drawn(page, "groups")
    page.tab.select_option("#choose-by", "features")
    page.tab.select_option("#choose-value", "checkpoint_bytes")
    page.tab.select_option("#choose-baseline", "features=8")
    drawn(page, "groups")
    part.locator("details.numbers summary").click()
    part.locator("tbody tr").nth(1).wait_for(timeout=10_000)
    lines = [line.locator("td").all_text_contents() for line in part.locator("tbody tr").all()]
    size = {row.settings["features"]: row.checkpoint_bytes for row in find.read_rows(SweepFolder(swept / "hostile"))}
    ratio = size[4] / size[8]
    assert lines[0][0] == "features=4"
    assert lines[0][-1] == f"{ratio:.3g} × ({(ratio - 1) * 100:.3g} %)"
    assert lines[1][-1] == "1 × (0 %)"


def test_address_brings_everything_back(opened, swept):
    names = labels(swept, "hostile")
    page = opened("hostile")
    page.filter("features", ">= 8")
    page.tab.get_by_role("button", name="output norm", exact=True).click()
    page.tab.click("#columns summary")
    page.tab.get_by_label("steps", exact=True).check()
    page.tab.click("#columns summary")
    choose(page, names[3])
    drawn(page, "scatter")
    page.tab.select_option("#choose-y", "loss_first")
    page.tab.wait_for_timeout(300)
    other = opened("hostile", "#" + page.tab.url.partition("#")[2])
    assert other.count() == "3 of 6 runs"
    assert other.column("output_norm") == page.column("output_norm")
    assert other.column("train_steps") == ["20"] * 3
    assert chosen(other) == [names[3]]
    drawn(other, "scatter")
    assert other.tab.input_value("#choose-y") == "loss_first"


def test_runs_lead_back_to_the_same_view(opened, swept):
    page = opened("hostile")
    page.filter("features", ">= 8")
    page.tab.click("#table a >> nth=0")
    page.tab.wait_for_selector("#run h2")
    page.tab.click("#run >> text=all runs")
    page.tab.wait_for_selector("#sweep:not([hidden])")
    assert page.count() == "3 of 6 runs"
    page.tab.click("h1 a")
    page.tab.wait_for_timeout(800)
    assert page.count() == "6 runs"


@pytest.mark.parametrize(
    "address", ["x=nothing&y=%00&color=&chosen=9-x,", "sort=a:b&filter.q=1&open=zz&axes=q,,", "=&&="]
)
def test_foreign_addresses_do_no_harm(address, opened):
    page = opened("mixed", f"#{address}")
    page.show_all()
    assert page.count() == "4 runs"
    assert chosen(page) == []


def saved(page, part, name):
    details = page.tab.locator(f"#{part} details.save").first
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    with page.tab.expect_download() as download:
        details.get_by_role("button", name=re.compile(f"^{name}:")).click()
    return download.value.suggested_filename, download.value.path().read_bytes()


@pytest.mark.parametrize("colors", ["light", "dark"])
def test_saved_charts_look_the_same(colors, opened):
    page = opened("hostile", color_scheme=colors)
    drawn(page, "losses")
    name, svg = saved(page, "losses", "SVG")
    assert name == "hostile-loss-before-each-step.svg"
    text = svg.decode()
    assert "var(" not in text and "light-dark(" not in text
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 28)"}[colors]
    assert f'fill="{paper}"' in text
    name, png = saved(page, "losses", "PNG")
    assert png.startswith(b"\x89PNG") and name.endswith(".png")
    seen = page.tab.evaluate(
        """async (text) => {
            const image = new Image();
            image.src = `data:image/svg+xml,${encodeURIComponent(text)}`;
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.width, image.height];
            const drawn = canvas.getContext("2d");
            drawn.drawImage(image, 0, 0);
            const { data } = drawn.getImageData(0, 0, image.width, image.height);
            return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
        }""",
        text,
    )
    assert seen > 20


def copied(page, part):
    """Presses a chart's Copy; returns what the page then says."""
    drawn(page, part)
    details = page.tab.locator(f"#{part} details.save").first
    details.locator("summary").click()
    details.get_by_role("button", name=re.compile("^Copy:")).click()
    details.get_by_role("status").filter(has_text=re.compile(".")).wait_for()
    return details.get_by_role("status").text_content().strip()


READ = """async () => {
    const [item] = await navigator.clipboard.read();
    const { width, height } = await createImageBitmap(await item.getType("image/png"));
    const box = document.querySelector("#losses .chart svg").viewBox.baseVal;
    return [item.types.join(), width / box.width, height / box.height];
}"""


def test_a_chart_is_copied_as_png(opened):
    page = opened("hostile")
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    assert copied(page, "losses") == "copied"
    assert page.tab.evaluate(READ) == ["image/png", 2, 2]


def test_a_refused_clipboard_is_reported(opened):
    page = opened("hostile")
    page.tab.context.grant_permissions(["geolocation"])  # and with it, no other
    message = copied(page, "losses")
    assert message.startswith("This browser does not allow it here: ") and "denied" in message


def test_a_missing_clipboard_is_reported(opened):
    page = opened("hostile")
    # As on a page that came over http from another machine.
    page.tab.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    reason = "this page has no clipboard; PNG saves the same"
    assert copied(page, "losses") == f"This browser does not allow it here: {reason}"


def test_charts_give_their_data(opened, swept):
    page = opened("hostile")
    drawn(page, "losses")
    _, content = saved(page, "losses", "CSV")
    lines = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    _, content = saved(page, "losses", "JSON")
    given = json.loads(content)
    row = find.read_rows(SweepFolder(swept / "hostile"))[0]
    last = [line for line in lines if line["run"] == row.label][-1]
    assert float(last["y"]) == pytest.approx(row.loss_last, rel=1e-6)
    assert len(given) == len(lines) == 6 * 20


def test_runs_are_exported_as_json(opened, swept):
    page = opened("mixed")
    page.filter("status", "done")
    with page.tab.expect_download() as download:
        page.tab.click("#json")
    lines = json.loads(download.value.path().read_text())
    rows = [row for row in find.read_rows(SweepFolder(swept / "mixed")) if row.status == "done"]
    assert [line["run"] for line in lines] == [row.label for row in rows]
    assert lines[0]["apply_latency_median_s"] == pytest.approx(rows[0].apply_s, rel=1e-6)
    assert lines[0]["apply_latency_flags"] == rows[0].apply_flags
