// What runs gave: trials of a search, outputs, loss curves, checkpoints.
"use strict";

function outputs(state) {
  const rows = state.shown.filter((row) => row.output_norm != null);
  const groups = groupsOf(rows, groupKeys(state.data));
  const group = choice(
    state,
    "group",
    "Values of",
    groups.slice(0, 500).map(({ label }) => [label, label]),
  );
  const chosen = groups.find(({ label }) => label === group.value).rows.filter((row) => row.mean != null);
  const charts = [
    strip(
      state,
      rows,
      (row) => row.output_norm,
      (row) => `norm ${number(row.output_norm)}`,
      { caption: "norm: a dot a seed, a bar at the median", say: number },
    ),
  ];
  if (chosen.length) charts.push(values(state, chosen, group.value));
  return {
    hint:
      groups.length > MAX_BARS ? `The first ${MAX_BARS} of ${groups.length} kinds; filter the table for others.` : null,
    choices: groups.length > 1 ? [group] : [],
    charts,
    numbers: () =>
      plainTable(
        ["", "n", "norm, median", "from", "to", "interval"],
        groups.map(({ label, rows: own }) => {
          const found = aggregate(own.map((row) => row.output_norm));
          return [label, found.num, number(found.median), number(found.low), number(found.high), found.interval];
        }),
      ),
  };
}

function values(state, rows, label) {
  const columns = rows.map((row) => ({
    x: row.seed ?? row.num,
    mean: row.mean,
    min: row.min,
    max: row.max,
    low: row.mean - row.std,
    high: row.mean + row.std,
    text: `${row.label}\nmean ${number(row.mean)}, std ${number(row.std)}\nfrom ${number(row.min)} to ${number(row.max)}`,
  }));
  const scales = {
    x: countScale(
      columns.map((row) => row.x),
      "seed",
    ),
    y: valueScale(
      columns.flatMap((row) => [row.min, row.max]),
      null,
      number,
      { log: false },
    ),
  };
  return {
    caption: `values of ${label}, a column a seed: min to max, mean ± std`,
    rows: () => columns,
    draw: (width) => distributions(width, columns, scales),
  };
}

// ---- a search

/** Every trial in the order in which it was asked for, also those whose run the filters hide, and the best so far. */
function trials(state) {
  const { objective, direction, trials: all } = state.data.search;
  const say = sayOf(objective);
  const better = direction === "maximize" ? (one, two) => one > two : (one, two) => one < two;
  let best = null;
  const rows = all.map(([x, value, place, asked, error]) => {
    if (value != null && (best == null || better(value, best))) best = value;
    const label = place == null ? null : state.data.columns.label[place];
    const text = `trial ${x}: ${error ? `failed: ${error}` : say(value)}\n${asked}\n${label ?? "no run"}`;
    return { x, value, best, label, asked, error, text };
  });
  const told = rows.filter((row) => row.value != null);
  const scales = {
    x: countScale(
      rows.map((row) => row.x),
      "trial",
    ),
    y: valueScale(
      told.map((row) => row.value),
      null,
      say,
    ),
  };
  const failed = rows.length - told.length;
  return {
    hint: `${direction} ${objective}; the line is the best so far${failed ? `; crosses are ${plural(failed, "trial")} that failed` : ""}.`,
    charts: [{ caption: `${objective} of each trial`, rows: () => rows, draw: (width) => trialDots(width, rows, scales) }],
    numbers: () =>
      plainTable(
        ["trial", objective, "asked for", "run", "error"],
        rows.map((row) => [row.x, say(row.value), row.asked, linkTo(row.label), row.error]),
      ),
  };
}

function linkTo(label) {
  return label == null ? null : element("a", { href: `#run=${label}` }, label);
}

// ---- training

function losses(state) {
  const rows = state.shown.filter((row) => state.data.columns.losses[row.id].length);
  const groups = groupsOf(rows, groupKeys(state.data)).slice(0, MAX_SERIES);
  const series = groups.map((group) => group.label);
  const points = (row, name) =>
    curveOf(state, row).map(([x, y]) => ({
      x,
      y,
      run: row.label,
      series: name,
      text: `${row.label}\n${name}\nstep ${x}: ${number(y)}`,
    }));
  const lines = groups.flatMap((group) => thinned(group.rows, 30).flatMap((row) => points(row, group.label)));
  const medians = groups.filter((group) => group.rows.length > 2).flatMap((group) => medianCurve(state, group));
  const all = groupsOf(rows, groupKeys(state.data));
  return {
    hint: `Thin: single seeds${medians.length ? "; thick: the median over seeds" : ""}.${all.length > groups.length ? ` The first ${groups.length} of ${all.length} kinds.` : ""}`,
    charts: [
      {
        caption: "loss before each step",
        legend: () => legend(series, [d3.symbolSquare]),
        rows: () => lines,
        draw: (width) => curves(width, lines, medians, lossScales(lines), series),
      },
    ],
    numbers: () =>
      plainTable(
        ["", "n", "first loss, median", "last loss, median", "from", "to", "interval"],
        all.map((group) => {
          const [first, last] = ["loss_first", "loss_last"].map((name) =>
            aggregate(group.rows.map((row) => row[name])),
          );
          return [
            group.label,
            group.rows.length,
            number(first?.median),
            number(last?.median),
            number(last?.low),
            number(last?.high),
            last?.interval,
          ];
        }),
      ),
  };
}

function lossScales(points) {
  const values = points.map((point) => point.y);
  const steps = points.map((point) => point.x);
  return { x: countScale(steps, "step"), y: valueScale(values, null, number) };
}

/** Pairs of step and loss; steps are counted from the first of the run that it goes on from. */
function curveOf(state, row) {
  const { first } = state.data.pool[row.training];
  return state.data.columns.losses[row.id].map(([step, loss]) => [first + step, loss]);
}

function medianCurve(state, group) {
  const byStep = d3.group(
    group.rows.flatMap((row) => curveOf(state, row)),
    ([step]) => step,
  );
  return [...byStep].map(([x, pairs]) => {
    const found = aggregate(pairs.map(([, loss]) => loss));
    return { x, y: found?.median, series: group.label, text: `${group.label}\nstep ${x}: ${inWords(found, number)}` };
  });
}

// ---- checkpoints

function checkpoints(state) {
  const { groups, note } = limitedGroups(state, (row) => row.checkpoint_bytes != null);
  const rows = groups.map((group) => {
    const [value, other] = ["checkpoint_bytes", "variables_bytes"].map(
      (name) => aggregateColumn(group.rows, name)?.median,
    );
    const num = group.rows.filter((row) => row.checkpoint_bytes != null).length;
    return {
      y: group.label,
      value,
      other,
      num,
      text: `${group.label}\n${size(value)} on disk\n${size(other)} of arrays`,
    };
  });
  return {
    hint: `Bytes on disk, median over seeds; the bar across is the arrays' own size.${note}`,
    charts: [{ caption: "size of a checkpoint", rows: () => rows, draw: (width) => bars(width, rows, size) }],
    numbers: () =>
      plainTable(
        ["", "n", "on disk", "arrays"],
        rows.map((row) => [row.y, row.num, size(row.value), size(row.other)]),
      ),
  };
}
