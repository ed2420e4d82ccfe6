// The page itself: the table and the parts with charts, one run by its link, the address, paper, news from a server.
"use strict";

const POLL_MS = 2000;

const state = { choices: {}, shown: [], rows: [], chosen: new Set(), open: new Map(), words: "", only: false };
let table;

async function start() {
  state.data = await unpack(document.getElementById("data").textContent);
  state.rows = rowsOf(state.data);
  state.shown = state.rows;
  takeAddress();
  table = makeTable(state, { onShown, onSettled });
  await new Promise((resolve) => table.on("tableBuilt", resolve));
  sayMarks();
  sayChosen();
  drawFigures();
  route();
  document.documentElement.dataset.ready = "true";
}

/** Counts the rows that pass the table's filters, and has the figures drawn again where they are others than before. */
function onShown(rows) {
  const all = plural(state.rows.length, "run");
  document.getElementById("count").textContent = rows.length === state.rows.length ? all : `${rows.length} of ${all}`;
  const before = new Set(state.shown);
  const same = rows.length === before.size && rows.every((row) => before.has(row));
  state.shown = rows;
  onSettled();
  if (!same) drawFigures();
}

/** Marks the chosen runs in the table and has the figures drawn again. */
function onChosen() {
  for (const row of table.getRows("visible")) row.reformat();
  if (state.only) filterRows(state, table, columnsOf(state.data));
  sayChosen();
  drawFigures();
  onSettled();
}

function sayChosen() {
  const only = () => {
    state.only = !state.only;
    filterRows(state, table, columnsOf(state.data));
    sayChosen();
  };
  const line = document.getElementById("choice");
  const focused = line.contains(document.activeElement) ? document.activeElement.textContent : null;
  line.replaceChildren(...chosenLine(state, { shown: () => state.shown, only }));
  const link = line.querySelector("a");
  if (link)
    link.onclick = (event) => {
      event.preventDefault();
      showPart("chosen");
    };
  if (focused) (line.querySelector("button") ?? line).focus();
}

// ---- the address

/** Takes over what the address asks for, before the table is made. */
function takeAddress() {
  const text = location.hash.slice(1);
  const kept = text.startsWith("run=") ? "" : text.includes("=") ? text : "";
  state.asked = fromAddress(kept, state.rows, columnsOf(state.data));
  const { choices, words, columns, chosen, only, open } = state.asked;
  Object.assign(state, { choices, words, columns, chosen, only: only && chosen.size > 0, open });
  state.address = kept;
}

/** Writes what is chosen into the address, but where it names a run. */
function onSettled() {
  if (!table?.initialized || !document.documentElement.dataset.ready) return;
  state.address = toAddress(state, table);
  if (/^#run=/.test(location.hash) || /^#\w+$/.test(location.hash)) return;
  history.replaceState(null, "", state.address ? `#${state.address}` : location.pathname + location.search);
}

/** Shows what a changed address asks for. */
function followAddress() {
  const text = location.hash.slice(1);
  if (text.startsWith("run=") || (text && !text.includes("=")) || text === state.address) return;
  takeAddress();
  for (const { field } of table.getHeaderFilters()) table.setHeaderFilterValue(field, "");
  for (const { field, value } of state.asked.filters) table.setHeaderFilterValue(field, value);
  table.setSort(state.asked.sorted);
  search(state, () => filterRows(state, table, columnsOf(state.data)));
  filterRows(state, table, columnsOf(state.data));
  onChosen();
}

/** Says once why times are marked. */
function sayMarks() {
  const counts = d3.rollup(
    state.rows.flatMap((row) => row.flagsOf("apply_latency")),
    (found) => found.length,
    (flag) => flag,
  );
  const said = [...counts].map(([flag, count]) => `${count} ${state.data.flags[flag] ?? flag}`);
  document.getElementById("marks").textContent = said.length ? `${FLAGGED} read with care: ${said.join(", ")}` : "";
}

// ---- one run by its link

/** Shows the run that the address names, or the sweep. */
function route() {
  const label = /^#run=([^&]+)$/.exec(location.hash)?.[1];
  const row = label && state.rows.find((one) => one.label === label);
  const article = document.getElementById("run");
  document.getElementById("sweep").hidden = Boolean(row);
  article.hidden = !row;
  article.replaceChildren(...(row ? runNode(state, row) : []));
  document.title = `${row ? `run ${row.label} · ` : ""}${state.data.sweep} · bridge-runner`;
  if (row) {
    scrollTo(0, 0);
    article.focus({ preventScroll: true });
  } else if (label) {
    article.hidden = false;
    article.replaceChildren(
      element("p", {}, `There is no run ${label} here. `, element("a", { href: "#" }, "All runs")),
    );
  } else {
    const part = location.hash.slice(1);
    if (/^\w+$/.test(part)) showPart(part);
  }
}

// ---- paper

/** On paper all parts are open; afterwards they are as they were. */
function preparePaper() {
  const folded = [...document.querySelectorAll("details.part:not([open])")];
  addEventListener("afterprint", () => folded.forEach((fold) => (fold.open = false)), { once: true });
  for (const fold of folded) fold.open = true;
  for (const section of document.querySelectorAll("#figures > section")) section.fill?.();
  document.getElementById("printed").replaceChildren(...printedTable(table, columnsOf(state.data)));
}

// ---- news, where a server has the page

/** Asks the server for the page again and again and takes over what is new: filters, order and choices stay. */
async function follow() {
  let name = null;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      const answer = await fetch("/", { headers: name ? { "If-None-Match": name } : {}, cache: "no-store" });
      if (answer.status === 200) {
        name = answer.headers.get("ETag");
        await takeOver(await answer.text());
      }
    } catch {
      document.getElementById("verdict").dataset.stopped = "The server has ended: this page is no longer renewed.";
      return;
    }
  }
}

async function takeOver(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const id of ["verdict", "asked", "study", "failures", "environment"])
    document.getElementById(id).replaceWith(page.getElementById(id));
  state.data = await unpack(page.getElementById("data").textContent);
  state.rows = rowsOf(state.data);
  state.texts = new WeakMap();
  await table.replaceData(state.rows);
  sayMarks();
  if (location.hash.startsWith("#run=")) route();
}

addEventListener("hashchange", () => {
  followAddress();
  route();
});
addEventListener("beforeprint", preparePaper);
chooseTheme();
start().then(
  () => {
    if ("live" in document.body.dataset) follow();
  },
  (error) => {
    document
      .getElementById("verdict")
      .append(element("span", {}, `The tables and charts can't be shown in this browser: ${error.message}`));
    throw error;
  },
);
