// Chosen runs: one set for table and charts, their losses over one another, and what differs side by side.
"use strict";

// More runs side by side are no longer read.
const MAX_ASIDE = 8;

/** Chooses runs, or no longer; `ids` of rows. */
function choose(state, ids, on = true) {
  for (const id of ids) on ? state.chosen.add(id) : state.chosen.delete(id);
  if (!state.chosen.size) state.only = false;
  onChosen();
}

/** The chosen rows, in the sweep's order. */
function chosenRows(state) {
  return [...state.chosen].sort((a, b) => a - b).map((id) => state.rows[id]);
}

/** The line under the table's tools: how many runs are chosen, and what can be done with them. */
function chosenLine(state, { shown, only }) {
  const num = state.chosen.size;
  const button = (text, click) => element("button", { type: "button", click }, text);
  const all = button("Choose all shown", () => choose(state, shown().map((row) => row.id)));
  if (!num) return [element("span", { class: "hint" }, "Choose runs by their boxes, or in a chart, to see them together."), all];
  return [
    element("b", {}, `${plural(num, "run")} chosen`),
    element("a", { href: "#chosen" }, "See them together"),
    button(state.only ? "Show all runs" : "Show only these", only),
    all,
    button("Choose none", () => choose(state, [...state.chosen], false)),
  ];
}

/** The chosen runs together: losses where they trained, and a table of what differs. */
function together(state) {
  const rows = chosenRows(state);
  const trained = rows.filter((row) => state.data.columns.losses[row.id].length);
  const aside = rows.slice(0, MAX_ASIDE);
  return {
    hint: rows.length > aside.length ? `Side by side: the first ${aside.length} of ${rows.length}.` : null,
    charts: [...(trained.length ? [overlay(state, trained)] : []), ...weightCharts(state, aside)],
    body: () => sideBySide(state, aside),
  };
}

function overlay(state, rows) {
  const shown = thinned(rows, 60);
  const names = shown.map((row) => runTitle(state, row));
  const series = names.slice(0, MAX_SERIES);
  const points = shown.flatMap((row, place) =>
    curveOf(state, row).map(([x, y]) => ({
      x,
      y,
      run: row.label,
      series: names[place],
      text: `${names[place]}\nstep ${x}: ${number(y)}`,
    })),
  );
  return {
    caption: "loss before each step",
    rows: () => points,
    legend: () => (names.length > series.length ? null : legend(series, [d3.symbolSquare])),
    draw: (width) => curves(width, points, [], lossScales(points), names),
  };
}

/** A run's name with what tells it from others. */
function runTitle(state, row) {
  const keys = Object.keys(state.data.axes);
  const values = keys.map((key) => `${shortName(key, keys)}=${row[`set.${key}`]}`);
  return [row.label, ...values].join(" ");
}

/** A column a run: the settings in which they differ, then what they gave; of two runs, also how much. */
function sideBySide(state, rows) {
  const settings = rows.map(
    (row) => new Map(state.data.columns.settings[row.id].map((place) => state.data.pool[place])),
  );
  const keys = [...new Set(settings.flatMap((own) => [...own.keys()]))];
  const differ = (texts) => new Set(texts).size > 1;
  const asked = keys
    .map((key) => [key, settings.map((own) => own.get(key) ?? "–")])
    .filter(([, values]) => differ(values.map(String)))
    .map(([key, values]) => ({ title: key, texts: values.map(String), different: true }));
  const results = columnsOf(state.data)
    .filter((column) => column.kind !== "link" && !column.field.startsWith("set."))
    .map((column) => {
      const texts = rows.map((row) => cellText(row, column));
      return { title: column.title, texts, different: differ(texts), change: changeOf(rows, column) };
    })
    .filter(({ texts }) => texts.some((text) => text !== "–"));
  const verdicts = checkLines(state, rows);
  const pair = rows.length === 2;
  const line = ({ title, texts, different, change }) =>
    element(
      "tr",
      { class: different ? "different" : null },
      element("th", { scope: "row" }, title),
      texts.map((text) => element("td", { class: NUMBER.test(text) ? "number" : null }, text)),
      pair ? element("td", { class: "number" }, change ?? "") : null,
    );
  const part = (title, lines) =>
    lines.length
      ? element(
          "tbody",
          {},
          element(
            "tr",
            {},
            element("th", { scope: "rowgroup", colspan: rows.length + 1 + pair, class: "group" }, title),
          ),
          lines.map(line),
        )
      : null;
  const heads = rows.map((row) => element("th", { scope: "col" }, element("a", { href: `#run=${row.label}` }, row.label)));
  const head = element("tr", {}, element("td"), heads, pair ? element("th", { scope: "col" }, "second / first") : null);
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "chosen runs side by side" },
    element(
      "table",
      { class: "aside" },
      element("thead", {}, head),
      part("settings that differ", asked),
      part("results", results),
      part("checks that differ", verdicts),
    ),
  );
}

/** How many times the first run's number the second's is. */
function changeOf(rows, column) {
  if (rows.length !== 2 || !["time", "size", "number"].includes(column.kind)) return null;
  const [first, second] = rows.map((row) => row[column.field]);
  return first > 0 && second > 0 ? times3(second / first) : null;
}

function checkLines(state, rows) {
  const given = rows.map(
    (row) => new Map(state.data.columns.checks[row.id].map((place) => state.data.pool[place].slice(0, 2))),
  );
  const names = [...new Set(given.flatMap((own) => [...own.keys()]))];
  return names
    .map((name) => ({ title: name, texts: given.map((own) => own.get(name) ?? "–"), different: true }))
    .filter(({ texts }) => new Set(texts).size > 1);
}
