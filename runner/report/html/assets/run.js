// The page of one run: what it was, what it gave, and how to have it again.
"use strict";

/** Everything about one run. */
function runNode(state, row) {
  const parts = [
    runHead,
    failure,
    commands,
    checkList,
    outputTable,
    timeTable,
    trainingOf,
    weightsPart,
    variables,
    seedStory,
    settingsOf,
  ];
  return parts.map((part) => part(state, row)).filter(Boolean);
}

function part(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

function code(lines) {
  return element("pre", { class: "code", tabindex: "0" }, lines.join("\n"));
}

/** A chart that says what it is to a screen reader. */
function named(caption, chart) {
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", caption);
  return chart;
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value != null && value !== "");
  return element(
    "dl",
    { class: "facts" },
    known.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))),
  );
}

function runHead(state, row) {
  const place = state.rows.indexOf(row);
  const link = (other, text) => (other ? element("a", { href: `#run=${other.label}` }, text) : null);
  const program = state.data.pool[row.program];
  const axes = Object.keys(state.data.axes).map((key) => [key, row[`set.${key}`]]);
  return element(
    "header",
    {},
    element(
      "p",
      {},
      element("a", { href: `#${state.address || "runs"}` }, "← all runs"),
      " ",
      link(state.rows[place - 1], "previous"),
      " ",
      link(state.rows[place + 1], "next"),
    ),
    element("h2", {}, `Run ${row.label} `, element("span", { class: `word ${row.status}` }, row.status)),
    facts([
      ["layer", row.layer],
      ["host", row.host],
      ["device", row.device],
      ...axes.filter(([key]) => !["layer", "device"].includes(key)),
      ["rng streams", program?.streams.join(", ")],
      ["mutable", program?.mutable.join(", ")],
      ["params", row.num_params],
      ["checkpoint", row.checkpoint_bytes == null ? null : size(row.checkpoint_bytes)],
      ["started", row.started_at],
      ["took", row.wall_s == null ? null : duration(row.wall_s)],
    ]),
  );
}

function failure(state, row) {
  if (row.error == null) return null;
  const [kind, type, message, traceback] = state.data.pool[row.error];
  return part(
    "Failure",
    element("p", {}, element("span", { class: "word failed" }, kind), ` ${type}: ${message}`),
    element("details", {}, element("summary", {}, "traceback"), code([traceback])),
  );
}

function commands(state, row) {
  const folder = `${state.data.folder}/runs/${row.label}`;
  const typed = state.data.columns.overrides[row.id].map((place) => quoted(state.data.pool[place]));
  const there =
    row.status === "waiting"
      ? []
      : [
          `bridge-runner rerun ${quoted(folder)}`,
          `bridge-runner verify ${quoted(folder)}`,
          `bridge-runner show ${quoted(folder)}`,
        ];
  const reload = `saved = runner.reload(${JSON.stringify(folder)})  # saved.module.apply(saved.variables, x)`;
  const again = `bridge-runner ${typed.filter((text) => !/^'?sweep=/.test(text)).join(" ")}`.trim();
  return part(
    "Again",
    code([...there, again]),
    row.status === "done" && row.checkpoint_bytes != null ? code(["import runner", reload]) : null,
  );
}

/** A word as a shell takes it. */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}

function checkList(state, row) {
  const said = state.data.columns.checks[row.id].map((place) => state.data.pool[place]);
  return said.length
    ? part(
        "Checks",
        said.map((check) => checkNode(check)),
      )
    : null;
}

function outputTable(state, row) {
  const arrays = state.data.columns.outputs[row.id];
  if (!arrays.length) return null;
  const lines = arrays.map(([kind, ...numbers]) => [
    state.data.pool[kind],
    ...numbers.slice(0, 6).map((value) => number(value)),
    numbers[6],
  ]);
  return part(
    "Output",
    plainTable(
      ["array", "norm", "mean", "std", "min", "max", "not finite", "digest"],
      lines.map((line) => [...line.slice(0, -1), element("code", {}, line.at(-1))]),
    ),
  );
}

function timeTable(state, row) {
  const phase = (name) => [
    name,
    ...["trace", "lower", "compile", "first_call"].map((piece) =>
      flagged(row[`${name}_${piece}_s`], row.flagsOf(`${name}_${piece}_s`)),
    ),
  ];
  if (row.apply_compile_s == null) return null;
  const steady = state.data.steady
    .filter((name) => row[name] != null)
    .map((name) => {
      const flags = row.flagsOf(name);
      return [
        QUANTITIES[name],
        flagged(row[name], flags),
        duration(row[`${name}_low`]),
        duration(row[`${name}_high`]),
        row[`${name}_num`],
        reasons(flags, state.data),
      ];
    });
  const compiled = row.compiled_here ? "" : " Compiled for another run of this program.";
  return part(
    "Times",
    plainTable(["", "trace", "lower", "compile", "first call"], [phase("init"), phase("apply")]),
    element(
      "p",
      { class: "hint" },
      `Compilation cache: ${row.cache}.${row.compile_contended ? ` ${FLAGGED} alongside other work of the sweep.` : ""}${compiled}`,
    ),
    steady.length ? plainTable(["steady", "median", "99 % from", "to", "n", "read with care"], steady) : null,
    facts([
      ["saving", row.checkpoint_s == null ? null : duration(row.checkpoint_s)],
      ["tracking", row.tracker_s == null ? null : duration(row.tracker_s)],
    ]),
  );
}

function trainingOf(state, row) {
  if (row.training == null) return null;
  const found = state.data.pool[row.training];
  const points = curveOf(state, row).map(([x, y]) => ({
    x,
    y,
    run: row.label,
    series: "loss",
    text: `step ${x}: ${number(y)}`,
  }));
  const step = Object.entries(found.phases).map(([name, seconds]) => [
    name,
    flagged(seconds, found.contended && name !== "first call" ? ["contended"] : []),
  ]);
  return part(
    "Training",
    facts([
      ["steps", row.train_steps],
      ["first loss", number(row.loss_first)],
      ["last loss", number(row.loss_last)],
      ["did not move", found.not_moved.join(", ") || "none"],
      ...step,
    ]),
    named("loss before each step", curves(640, points, [], lossScales(points), ["loss"])),
  );
}

function variables(state, row) {
  const leaves = state.data.pool[row.program]?.leaves ?? [];
  if (!leaves.length) return null;
  const digests = state.data.columns.digests[row.id];
  const spec = leaves.some((leaf) => leaf[4]);
  const lines = leaves.map(([linen, native, array, bytes, names], place) => [
    linen,
    native,
    array,
    size(bytes),
    ...(spec ? [names] : []),
    element("code", {}, digests[place]),
  ]);
  return part(
    "Variables",
    plainTable(["Linen path", "NNX path", "array", "bytes", ...(spec ? ["axis names"] : []), "digest"], lines),
  );
}

function seedStory(state, row) {
  const story = state.data.columns.story[row.id].map((place) => state.data.pool[place]);
  return story.length ? part("Seed: the same values natively", code(story)) : null;
}

function settingsOf(state, row) {
  const own = state.data.columns.settings[row.id].map((place) => state.data.pool[place]);
  const shared = state.data.common.map((place) => state.data.pool[place]);
  const typed = (pairs) => pairs.map(([key, value]) => `${key}=${value}`);
  return part(
    "Settings",
    own.length ? code(typed(own)) : null,
    element(
      "details",
      {},
      element("summary", {}, `${plural(shared.length, "setting")} that all runs share`),
      code(typed(shared)),
    ),
  );
}
