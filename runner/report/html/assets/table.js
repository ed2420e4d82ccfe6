// The table of runs: sorted, filtered, searched, exported. Tabulator draws what is in view.
"use strict";

// Rows of a printed table; more are in results.parquet.
const MAX_PRINTED = 200;

/** Every column that can be chosen: its field, heading, kind, and name in results.parquet. */
function columnsOf(data) {
  const axes = Object.keys(data.axes).map((key) => ({
    field: `set.${key}`,
    title: key,
    kind: "text",
    name: key,
    shown: true,
  }));
  const has = (name) => data.columns[name].some((value) => value != null);
  const times = (field, title, name = field) => ({ field, title, kind: "time", name });
  const all = [
    { field: "label", title: "run", kind: "link", name: "run", shown: true },
    { field: "status", title: "status", kind: "status", name: "status", shown: true },
    ...axes,
    { field: "output_norm", title: "output norm", kind: "number", name: "output_norm", shown: true },
    { ...times("apply_latency", "apply", "apply_latency_median_s"), shown: true },
    {
      field: "checkpoint_bytes",
      title: "saved",
      kind: "size",
      name: "checkpoint_bytes",
      shown: has("checkpoint_bytes"),
    },
    { field: "loss_last", title: "last loss", kind: "number", name: "loss_last", shown: has("loss_last") },
    { field: "verdict", title: "checks", kind: "verdict", name: "checks", shown: true },
    { field: "reason", title: "failure", kind: "text", name: "error", shown: has("error") },
    { field: "layer", title: "layer", kind: "text", name: "layer" },
    { field: "host", title: "host", kind: "text", name: "host" },
    { field: "device", title: "device", kind: "text", name: "device" },
    { field: "seed", title: "seed", kind: "count", name: "seed" },
    ...["mean", "std", "min", "max"].map((field) => ({
      field,
      title: `output ${field}`,
      kind: "number",
      name: `output_${field}`,
    })),
    times("apply_dispatch", "dispatch", "apply_dispatch_median_s"),
    times("apply_throughput", "a call in flight", "apply_throughput_median_s"),
    times("init_latency", "init", "init_latency_median_s"),
    ...["init", "apply"].flatMap((name) =>
      ["trace", "lower", "compile", "first_call"].map((part) =>
        times(`${name}_${part}_s`, `${name} ${part.replace("_", " ")}`),
      ),
    ),
    times("checkpoint_s", "saving"),
    times("tracker_s", "tracking"),
    times("wall_s", "whole run"),
    { field: "num_params", title: "params", kind: "count", name: "num_params" },
    { field: "variables_bytes", title: "variables", kind: "size", name: "variables_bytes" },
    { field: "train_steps", title: "steps", kind: "count", name: "train_steps" },
    { field: "loss_first", title: "first loss", kind: "number", name: "loss_first" },
    { field: "cache", title: "compilation cache", kind: "text", name: "cache" },
    { field: "started_at", title: "started", kind: "text", name: "started_at" },
  ];
  const known = new Set(axes.map((column) => column.title));
  return all.filter((column) => column.field.startsWith("set.") || !known.has(column.field));
}

const SAY = { time: duration, size, number, count: number };

/** What a cell shows, as text. */
function cellText(row, column) {
  const value = row[column.field];
  if (column.kind === "time") return flagged(value, row.flagsOf(column.field));
  return (SAY[column.kind] ?? ((text) => String(text ?? "–")))(value);
}

/** What a pointer on a cell tells: a time's interval and why it is marked, a long text whole. */
function cellHint(row, column, data) {
  if (column.kind !== "time" || row[column.field] == null) return cellText(row, column);
  const [low, high, num] = ["low", "high", "num"].map((end) => row[`${column.field}_${end}`]);
  const parts = [low == null ? null : `99 % of ${duration(low)} to ${duration(high)}`, num && `n ${num}`];
  const flags = row.flagsOf(column.field);
  return [...parts, flags.length ? `${FLAGGED} ${reasons(flags, data)}` : null].filter(Boolean).join("; ");
}

function cellNode(row, column, data) {
  const text = cellText(row, column);
  if (column.kind === "link") return element("a", { href: `#run=${row.label}` }, text);
  const styled = column.kind === "status" || column.kind === "verdict";
  return element("span", { title: cellHint(row, column, data), class: styled ? `word ${text}` : null }, text);
}

const UNITS = { ns: 1e-9, µs: 1e-6, us: 1e-6, ms: 1e-3, s: 1, B: 1, kB: 1e3, MB: 1e6, GB: 1e9 };
const COMPARISON = /^(<=|>=|<|>|=)\s*(-?[\d.]+(?:[eE][+-]?\d+)?)\s*(ns|µs|us|ms|s|B|kB|MB|GB)?$/;

/** Whether a row passes what is typed above a column: `>10 µs`, `<=3`, or letters that the cell shows. */
function passes(typed, row, column) {
  const found = COMPARISON.exec(typed.trim());
  if (!found) return cellText(row, column).toLowerCase().includes(typed.trim().toLowerCase());
  const value = row[column.field];
  if (typeof value !== "number") return false;
  const wanted = Number(found[2]) * (UNITS[found[3]] ?? 1);
  return {
    "<": value < wanted,
    ">": value > wanted,
    "<=": value <= wanted,
    ">=": value >= wanted,
    "=": value === wanted,
  }[found[1]];
}

const NUMERIC = new Set(["time", "size", "number", "count"]);

const MAX_WIDTH = 320;
const SAMPLE = 300;

/** Pixels for the longest of some of a column's texts, at most a few hundred. */
function widthOf(column, rows) {
  const font = "14.4px system-ui, sans-serif"; // as page.css has it
  const texts = thinned(rows, SAMPLE).map((row) => textWidth(cellText(row, column), font));
  return Math.ceil(Math.min(MAX_WIDTH, Math.max(textWidth(column.title, `600 ${font}`) + 42, d3.max(texts) + 18, 60)));
}

/** A column as Tabulator wants it. Its own headings and menus take HTML, so every text goes in as a node. */
function definition(column, state) {
  const right = NUMERIC.has(column.kind) || typeof state.rows[0]?.[column.field] === "number";
  return {
    field: column.field,
    title: column.title,
    frozen: column.kind === "link",
    minWidth: widthOf(column, state.rows),
    hozAlign: right ? "right" : "left",
    sorter: (first, second) => compare(first, second),
    formatter: (cell) => cellNode(cell.getData(), column, state.data),
    titleFormatter: () =>
      element("button", { type: "button", title: state.data.meanings[column.name] ?? null }, column.title),
    headerFilter: "input",
    headerFilterPlaceholder: right ? "> 1" : "",
    headerFilterFunc: (typed, _, row) => passes(typed, row, column),
  };
}

/** A box a run, by which it is chosen to be seen together with others. */
function boxColumn(state) {
  const box = (row) => {
    const change = (event) => choose(state, [row.id], event.target.checked);
    const label = `choose run ${row.label}`;
    return element("input", { type: "checkbox", "aria-label": label, checked: state.chosen.has(row.id), change });
  };
  return {
    title: "chosen",
    titleFormatter: () => element("span", { class: "unseen" }, "chosen"),
    formatter: (cell) => box(cell.getData()),
    ...{ headerSort: false, frozen: true, hozAlign: "center", width: 34, minWidth: 34, resizable: false },
  };
}

/** Draws the table as the address asks; `onShown` gets the rows that pass whenever they change, `onSettled` all else. */
function makeTable(state, { onShown, onSettled }) {
  const columns = columnsOf(state.data);
  const { asked } = state;
  const there = columns.filter((column) => (state.columns ? state.columns.includes(column.field) : column.shown));
  const fields = new Set(there.map((column) => column.field));
  const table = new Tabulator("#table", {
    data: state.rows,
    columns: [boxColumn(state), ...there.map((column) => definition(column, state))],
    index: "id",
    nestedFieldSeparator: false,
    initialSort: asked.sorted.filter(({ column }) => fields.has(column)),
    initialHeaderFilter: asked.filters.filter(({ field }) => fields.has(field)),
    rowFormatter: (row) => row.getElement().classList.toggle("chosen", state.chosen.has(row.getData().id)),
    // All columns share what room the frame has left; where it has too little, it scrolls.
    layout: "fitColumns",
    maxHeight: "32rem",
    placeholder: "No run passes.",
    headerSortTristate: true,
  });
  table.on("tableBuilt", () => {
    // A grid holds rows only; what is in them takes the focus.
    document.querySelector("#table .tabulator-tableholder").removeAttribute("tabindex");
    nameFilters(table);
    fillChooser(table, columns, state, onSettled);
    if (state.words || state.only) filterRows(state, table, columns);
  });
  table.on("dataFiltered", (_, found) => onShown(found.map((row) => row.getData())));
  table.on("dataSorted", onSettled);
  table.on("rowClick", (event, row) => {
    if (!event.target.closest("a, input") && !getSelection().toString()) location.hash = `run=${row.getData().label}`;
  });
  search(state, () => filterRows(state, table, columns));
  const save = (id, ending, make, type) => {
    document.getElementById(id).onclick = () =>
      download(`${state.data.sweep}.${ending}`, make(table, columns), type);
  };
  save("csv", "csv", csv, "text/csv");
  save("json", "json", json, "application/json");
  return table;
}

/** Numbers by size, all else by its letters; what is missing comes last in a rising order. */
function compare(first, second) {
  if (first == null || second == null) return (first == null) - (second == null);
  if (typeof first === "number" && typeof second === "number") return first - second;
  return String(first).localeCompare(String(second), "en", { numeric: true });
}

/** Says to a screen reader which column a filter is of. */
function nameFilters(table) {
  for (const column of table.getColumns()) {
    column
      .getElement()
      .querySelector(".tabulator-header-filter input")
      ?.setAttribute("aria-label", `filter ${column.getDefinition().title}`);
  }
}

/** A box a column; those that are not chosen are not in the table, which is quicker to draw for it. */
function fillChooser(table, columns, state, onSettled) {
  const field = document.querySelector("#columns fieldset");
  const boxes = columns.slice(1).map((column) => {
    const change = async (event) => {
      await (event.target.checked ? table.addColumn(definition(column, state)) : table.deleteColumn(column.field));
      state.columns = chosenOf(table, columns).map((one) => one.field);
      nameFilters(table);
      onSettled();
    };
    const checked = state.columns ? state.columns.includes(column.field) : Boolean(column.shown);
    return element("label", {}, element("input", { type: "checkbox", checked, change }), ` ${column.title}`);
  });
  field.replaceChildren(element("legend", { class: "unseen" }, "columns of the table"), ...boxes);
}

/** Filters by words that any column shows, chosen or not; all words must be there. Also by the chosen runs alone. */
function filterRows(state, table, columns) {
  const texts = (state.texts ??= new WeakMap());
  const textOf = (row) => {
    if (!texts.has(row)) {
      const all = columns.map((column) => cellText(row, column));
      texts.set(row, all.join("\n").toLowerCase());
    }
    return texts.get(row);
  };
  const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
  table.setFilter(
    (row) => (!state.only || state.chosen.has(row.id)) && words.every((word) => textOf(row).includes(word)),
  );
}

function search(state, onWords) {
  const box = document.getElementById("search");
  box.value = state.words;
  let waiting;
  box.oninput = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.words = box.value;
      onWords();
    }, 150);
  };
}

/** The rows that pass, in the table's order; Tabulator's own getData copies them, without what they read. */
function activeRows(table) {
  return table.getRows("active").map((row) => row.getData());
}

function chosenOf(table, columns) {
  const fields = table.getColumns().map((column) => column.getField());
  return columns.filter((column) => fields.includes(column.field));
}

/** The chosen columns of the rows that pass, in their order; numbers in seconds and bytes, a time's marks beside it. */
function csv(table, columns) {
  const chosen = chosenOf(table, columns);
  const heads = chosen.flatMap((column) =>
    column.kind === "time" ? [column.name, `${column.name.replace(/(_median)?_s$/, "")}_flags`] : [column.name],
  );
  const lines = activeRows(table).map((row) =>
    chosen.flatMap((column) =>
      column.kind === "time" ? [row[column.field], row.flagsOf(column.field).join(" ")] : [row[column.field]],
    ),
  );
  return csvLines([heads, ...lines]);
}

/** The same as JSON: an object a run. */
function json(table, columns) {
  const chosen = chosenOf(table, columns);
  const lines = activeRows(table).map((row) =>
    Object.fromEntries(
      chosen.flatMap((column) => {
        const value = [column.name, row[column.field] ?? null];
        if (column.kind !== "time") return [value];
        return [value, [`${column.name.replace(/(_median)?_s$/, "")}_flags`, row.flagsOf(column.field)]];
      }),
    ),
  );
  return JSON.stringify(lines, null, 1);
}

/** The first rows as a plain table, for paper. */
function printedTable(table, columns) {
  const chosen = chosenOf(table, columns);
  const rows = activeRows(table);
  const lines = rows.slice(0, MAX_PRINTED).map((row) => chosen.map((column) => cellText(row, column)));
  const more = rows.length > MAX_PRINTED ? element("p", {}, `${MAX_PRINTED} of ${rows.length} runs`) : null;
  return [
    plainTable(
      chosen.map((column) => column.title),
      lines,
    ),
    more,
  ].filter(Boolean);
}
