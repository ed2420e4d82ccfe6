// What was checked: layers against checks, and the evidence of each.
"use strict";

/** A row for programs that were checked alike, a column for each check; a cell opens its evidence. */
function checks(state) {
  const verdicts = new Map();
  const names = new Set();
  for (const row of state.shown) {
    const said = state.data.columns.checks[row.id].map((place) => state.data.pool[place]);
    said.forEach(([name]) => names.add(name));
    const checked = said.map(([name, verdict]) => `${name}=${verdict}`).join(" ");
    const key = JSON.stringify([row.layer, row.host, checked]);
    if (!verdicts.has(key)) verdicts.set(key, []);
    verdicts.get(key).push({ row, said });
  }
  const columns = [
    ...state.data.program_checks.filter((name) => names.has(name)),
    ...[...names].filter((name) => !state.data.program_checks.includes(name)),
  ];
  const lines = joinSkipped([...verdicts.values()]);
  return { hint: "Choose a cell for what was seen.", body: () => matrix(lines, columns) };
}

/** Runs that differ only in a check that one of them was asked for all of them (`skipped`) are one line. */
function joinSkipped(groups) {
  const lines = new Map();
  for (const runs of groups) {
    const [{ row, said }] = runs;
    const fit = [...lines.values()].find(
      (line) =>
        line.layer === row.layer &&
        line.host === row.host &&
        said.every(
          ([name, verdict]) => verdict === "skipped" || [undefined, "skipped", verdict].includes(line.verdicts[name]),
        ),
    );
    const line = fit ?? { layer: row.layer, host: row.host, verdicts: {}, runs: [] };
    for (const [name, verdict] of said)
      if (verdict !== "skipped" || !line.verdicts[name]) line.verdicts[name] = verdict;
    line.runs.push(...runs);
    if (!fit) lines.set(row.id, line);
  }
  return [...lines.values()];
}

function matrix(lines, columns) {
  const evidence = element("div", { class: "evidence", "aria-live": "polite" });
  const cell = (line, name) => {
    const verdict = line.verdicts[name];
    if (!verdict) return element("td", {}, "–");
    const click = (event) => {
      for (const button of event.target.closest("table").querySelectorAll("[aria-pressed=true]"))
        button.setAttribute("aria-pressed", "false");
      event.target.setAttribute("aria-pressed", "true");
      evidence.replaceChildren(...evidenceOf(line, name));
    };
    return element(
      "td",
      {},
      element("button", { type: "button", class: `word ${verdict}`, "aria-pressed": "false", click }, verdict),
    );
  };
  const rows = lines.map((line) => {
    const title = line.host ? `${line.layer} in ${line.host}` : line.layer;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, title),
      element("td", { class: "number" }, String(line.runs.length)),
      columns.map((name) => cell(line, name)),
    );
  });
  const head = element(
    "tr",
    {},
    ["layer", "runs", ...columns].map((text) => element("th", { scope: "col" }, text)),
  );
  return element(
    "div",
    {},
    element(
      "div",
      { class: "scroll", tabindex: "0" },
      element("table", { class: "matrix" }, element("thead", {}, head), element("tbody", {}, rows)),
    ),
    evidence,
  );
}

/** What a check said of the runs of a line: each sentence once, with its runs, evidence and what fixes it. */
function evidenceOf(line, name) {
  const said = new Map();
  for (const { row, said: all } of line.runs) {
    const check = all.find(([other]) => other === name);
    const key = check && check.join("\n");
    if (!check || (check[1] === "skipped" && line.verdicts[name] !== "skipped")) continue;
    if (!said.has(key)) said.set(key, { check, rows: [] });
    said.get(key).rows.push(row);
  }
  return [...said.values()].map(({ check, rows }) => checkNode(check, runLinks(rows)));
}

function runLinks(rows, most = 5) {
  const links = rows.slice(0, most).flatMap((row) => [element("a", { href: `#run=${row.label}` }, row.label), " "]);
  return element("span", {}, links, rows.length > most ? `and ${rows.length - most} more` : null);
}

/** One check: its verdict, sentence, what fixes it, and the evidence folded. */
function checkNode([name, verdict, detail, fix, evidence], after = null) {
  return element(
    "div",
    { class: "check" },
    element(
      "p",
      {},
      element("span", { class: `word ${verdict}` }, verdict),
      element("b", {}, ` ${name} `),
      detail,
      after ? element("br") : null,
      after,
    ),
    fix ? element("pre", { tabindex: "0" }, fix) : null,
    evidence ? element("details", {}, element("summary", {}, "evidence"), element("pre", { tabindex: "0" }, evidence)) : null,
  );
}
