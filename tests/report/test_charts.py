"""What charts and tables of the report write: scales, labels, numbers, widths. In a real browser."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

# Of every axis of every chart: the texts at its ticks, and how many of them meet their neighbour.
AXES = """[...document.querySelectorAll('.chart svg [aria-label$="-axis tick label"]')].map((axis) => {
    const texts = [...axis.querySelectorAll('text')];
    const upright = texts.every((text) => !/rotate/.test(text.getAttribute('transform')));
    const boxes = upright ? texts.map((text) => text.getBoundingClientRect()) : [];
    const meet = (one, two) => one.left < two.right && two.left < one.right
        && one.top + 3 < two.bottom && two.top + 3 < one.bottom;
    const met = boxes.filter((one, place) => boxes.some((two, other) => other > place && meet(one, two))).length;
    return {kind: axis.getAttribute('aria-label')[0], texts: texts.map((text) => text.textContent), met};
})"""


@pytest.mark.parametrize("width", [420, 1024, 1400])
@pytest.mark.parametrize("sweep", ["hostile", "mixed", "searched"])
def test_tick_labels_never_collide(sweep, width, opened):
    page = opened(sweep)
    page.tab.set_viewport_size({"width": width, "height": 900})
    page.show_all()
    axes = page.tab.evaluate(AXES)
    assert len(axes) > 10
    for axis in axes:
        assert axis["met"] == 0, axis
        assert len(set(axis["texts"])) == len(axis["texts"]), axis


def test_colliding_tick_labels_are_found(opened):
    page = opened("searched")
    page.show_all()
    page.tab.evaluate("""for (const text of document.querySelectorAll('[aria-label="x-axis tick label"] text'))
        text.setAttribute('transform', 'translate(100, 0)')""")
    assert any(axis["met"] for axis in page.tab.evaluate(AXES))


@pytest.mark.parametrize(
    ("low", "high"), [(0.061, 5.3), (1.7e-5, 1.9e-5), (0.9, 1.1), (3, 3), (0, 0), (2e-9, 4e3), (-1, 1)]
)
@pytest.mark.parametrize("log", ["null", "true"])
def test_scales_have_several_different_ticks(low, high, log, opened):
    if log == "true" and low <= 0:
        pytest.skip("no logarithm")
    made = f"(() => {{ const s = valueScale([{low}, {high}], null, number, {{ log: {log} }});"
    labels = opened("mixed").tab.evaluate(f"{made} return s.ticks.map(s.tickFormat) }})()")
    assert 3 <= len(labels) <= 9
    assert len(set(labels)) == len(labels)


def test_trials_stand_on_whole_numbers(opened):
    page = opened("searched")
    page.show_all()
    labels = page.tab.locator("#trials [aria-label='x-axis tick label'] text").all_text_contents()
    assert labels == ["0", "1", "2", "3", "4", "5"]
    values = page.tab.locator("#trials [aria-label='y-axis tick label'] text").all_text_contents()
    assert all(text.endswith("µs") for text in values)


@pytest.mark.parametrize(
    "names",
    [
        ["model.encoder.layers.attention.width=8", "model.encoder.layers.attention.width=16"],
        ["x" * 200 + "a" + "y" * 200, "x" * 200 + "b" + "y" * 200, "short"],
        ["m" * 300, "m" * 300 + "n" * 300],
    ],
)
def test_cut_labels_stay_different(names, opened):
    page = opened("mixed")
    short = page.tab.evaluate("(names) => names.map((name) => shortened(names, 120).get(name))", names)
    assert len(set(short)) == len(names)
    assert max(page.tab.evaluate("(names) => names.map((name) => textWidth(name))", short)) <= 122


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0000698259, "6.98259e-5"),
        (0.000998, "9.98e-4"),
        (0.25, "0.25"),
        (123456789, "123456789"),
        (1 / 3, "0.333333"),
        (0, "0"),
        (None, "–"),
    ],
)
def test_numbers_are_short(value, said, opened):
    assert opened("mixed").tab.evaluate("(value) => number(value)", value) == said


@pytest.mark.parametrize("width", [420, 1400])
def test_table_takes_its_frames_width(width, opened):
    page = opened("hostile")
    page.tab.set_viewport_size({"width": width, "height": 900})
    page.tab.wait_for_timeout(400)
    sizes = page.tab.evaluate(
        "[document.querySelector('#table .tabulator-row').offsetWidth, document.querySelector('#table').clientWidth]"
    )
    assert sizes[0] >= sizes[1] - 2
    cut = page.tab.evaluate("""[...document.querySelectorAll('#table .tabulator-col-title, #table .tabulator-cell')]
        .filter((cell) => cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent)""")
    assert [text for text in cut if len(text) < 40] == []


def test_legends_name_only_what_is_seen(opened):
    page = opened("hostile")
    page.show_all()
    for figure in page.tab.locator("#phases figure").all():
        shown = {
            (one.get_attribute("fill") or one.evaluate("(mark) => mark.parentElement.getAttribute('fill')"))
            for one in figure.locator(".chart svg [aria-label=dot] path, .chart svg [aria-label=dot] circle").all()
        }
        named = figure.locator(".legend path").evaluate_all("(paths) => paths.map((path) => path.getAttribute('fill'))")
        assert set(named) == shown
