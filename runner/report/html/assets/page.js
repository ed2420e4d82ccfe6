// The page itself: parts drawn as they come into view, one run by its link, colours, paper, news from a server.
"use strict";

const POLL_MS = 2000;

const state = { choices: {}, shown: [], rows: [] };
let table;

async function start() {
  state.data = await unpack(document.getElementById("data").textContent);
  state.rows = rowsOf(state.data);
  state.shown = state.rows;
  table = makeTable(state, onShown);
  sayMarks();
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
  if (!same) drawFigures();
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

// ---- figures

/** Puts every figure that has something to show in its place; it is made when it comes into view. */
function drawFigures() {
  watcher.disconnect();
  const before = new Map([...document.querySelectorAll("#figures > section")].map((made) => [made.id, made]));
  const sections = FIGURES.filter((figure) => state.shown.some(figure.has)).map((figure) => {
    const made = element("section", { id: figure.id, class: "pending" }, element("h2", {}, figure.title));
    const old = before.get(figure.id);
    // As high as it was, so that nothing jumps under the reader.
    if (old) made.style.minHeight = `${old.offsetHeight}px`;
    made.fill = () => fillSection(made, figure.make(state), old?.querySelector(":scope > details")?.open);
    return made;
  });
  document.getElementById("figures").replaceChildren(...sections);
  for (const made of sections) watcher.observe(made);
  drawParts();
}

function fillSection(made, figure, open) {
  made.fill = null;
  const numbers =
    figure.numbers &&
    element(
      "details",
      { open, toggle: (event) => fillNumbers(event.target, figure.numbers) },
      element("summary", {}, "numbers"),
    );
  const parts = [
    figure.hint ? element("p", { class: "hint" }, figure.hint) : null,
    ...(figure.choices ?? []).filter((choice) => choice.options.length > 1).map(chooser),
    figure.body?.() ?? null,
    figure.charts ? drawCharts(figure.charts) : null,
    numbers ?? null,
  ];
  made.append(...parts.filter(Boolean));
  requestAnimationFrame(() => {
    made.classList.remove("pending");
    made.style.minHeight = "";
  });
}

/** The charts, drawn as wide as there is room for; `holders` are in the document first, so that they have a width. */
function drawCharts(charts) {
  const holders = charts.map(() => element("div", { class: "chart" }));
  const figures = charts.map((chart, place) =>
    element("figure", {}, element("figcaption", {}, chart.caption), chart.legend?.() ?? null, holders[place]),
  );
  const all = element("div", { class: "charts" }, figures);
  const draw = (holder, { caption, draw: drawn }) => {
    const chart = drawn(Math.max(300, holder.clientWidth || 640));
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", caption);
    holder.append(chart);
  };
  requestAnimationFrame(() => holders.forEach((holder, place) => draw(holder, charts[place])));
  return all;
}

function fillNumbers(details, make) {
  if (details.open && details.childElementCount === 1) details.append(make());
}

function chooser({ name, label, options, value }) {
  const change = (event) => {
    state.choices[name] = event.target.value;
    drawFigures();
    document.getElementById(`choose-${name}`)?.focus();
  };
  const all = options.map(([key, text]) => element("option", { value: key, selected: key === value }, text));
  return element("p", {}, element("label", {}, `${label} `, element("select", { id: `choose-${name}`, change }, all)));
}

const watcher = new IntersectionObserver(
  (seen) => {
    for (const { isIntersecting, target } of seen) if (isIntersecting) target.fill?.();
  },
  { rootMargin: "200px" },
);

/** Links to the parts that are there. */
function drawParts() {
  const sections = [...document.querySelectorAll("main > section:not([hidden]), #figures > section")];
  const links = sections.map((part) => [part.id, part.querySelector("h2")?.textContent]).filter(([, title]) => title);
  document
    .getElementById("parts")
    .replaceChildren(...links.map(([id, title]) => element("a", { href: `#${id}` }, title)));
}

// ---- one run by its link

/** Shows the run that the address names, or the sweep. */
function route() {
  const label = /^#run=(.+)$/.exec(location.hash)?.[1];
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
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
  }
}

// ---- paper

function preparePaper() {
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
  await table.replaceData(state.rows);
  sayMarks();
  if (location.hash.startsWith("#run=")) route();
}

addEventListener("hashchange", route);
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
