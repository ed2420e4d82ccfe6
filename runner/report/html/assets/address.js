// What the reader has chosen, kept in the page's address: who follows the link sees the same.
"use strict";

// An address with more chosen runs than this is too long to pass on.
const MAX_KEPT = 200;

/** What the address keeps of `state`, as `key=value&…`; only what differs from the page as it opens. */
function toAddress(state, table) {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(state.choices)) if (value != null) kept.set(name, value);
  if (state.words) kept.set("find", state.words);
  for (const { field, value } of table.getHeaderFilters()) if (value) kept.set(`filter.${field}`, value);
  const sorted = table.getSorters().map(({ field, dir }) => `${field}:${dir}`);
  if (sorted.length) kept.set("sort", sorted.join(","));
  if (state.columns) kept.set("columns", state.columns.join(","));
  const labels = [...state.chosen].sort((a, b) => a - b).map((id) => state.rows[id].label);
  if (labels.length && labels.length <= MAX_KEPT) kept.set("chosen", labels.join(","));
  if (state.only && kept.has("chosen")) kept.set("only", "chosen");
  for (const open of [true, false]) {
    const parts = [...state.open].filter(([, one]) => one === open).map(([id]) => id);
    if (parts.length) kept.set(open ? "open" : "folded", parts.join(","));
  }
  return kept.toString();
}

// Keys of an address that are no choice of a figure.
const OWN_KEYS = new Set(["find", "sort", "columns", "chosen", "only", "open", "folded", "run"]);

/** What an address asks for, for `state` and the table; whatever it names that is not there is left out. */
function fromAddress(text, rows, columns) {
  const kept = new URLSearchParams(text);
  const list = (key) => (kept.get(key) ?? "").split(",").filter(Boolean);
  const fields = new Set(columns.map((column) => column.field));
  const byLabel = new Map(kept.has("chosen") ? rows.map((row) => [row.label, row.id]) : []);
  const entries = [...kept];
  const choices = entries.filter(([key]) => !OWN_KEYS.has(key) && !key.startsWith("filter."));
  return {
    choices: Object.fromEntries(choices),
    words: kept.get("find") ?? "",
    filters: entries
      .filter(([key]) => key.startsWith("filter.") && fields.has(key.slice(7)))
      .map(([key, value]) => ({ field: key.slice(7), value })),
    sorted: list("sort")
      .map((text) => ({ column: text.slice(0, text.lastIndexOf(":")), dir: text.endsWith(":desc") ? "desc" : "asc" }))
      .filter(({ column }) => fields.has(column)),
    columns: kept.has("columns") ? list("columns").filter((field) => fields.has(field)) : null,
    chosen: new Set(list("chosen").map((label) => byLabel.get(label)).filter((id) => id != null)),
    only: kept.has("only"),
    open: new Map([...list("open").map((id) => [id, true]), ...list("folded").map((id) => [id, false])]),
  };
}
