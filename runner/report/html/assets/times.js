// Times: over each axis of the sweep, bridged beside native and Linen, and phase by phase.
"use strict";

const QUANTITIES = {
  apply_latency: "apply, one blocking call",
  apply_dispatch: "apply, until the call returns",
  apply_throughput: "apply, a call with many in flight",
  init_latency: "init, one blocking call",
  apply_compile_s: "compiling apply",
  init_compile_s: "compiling init",
  checkpoint_s: "saving the checkpoint",
  wall_s: "whole run",
};

const HOLLOW = `Hollow points (${FLAGGED}) are to be read with care.`;

function times(state) {
  const there = Object.entries(QUANTITIES).filter(([name]) => state.shown.some((row) => row[name] != null));
  const quantity = choice(state, "quantity", "Time of", there);
  const name = quantity.value;
  const rows = state.shown.filter((row) => row[name] != null);
  const keys = Object.keys(state.data.axes);
  const axes = keys
    .filter((key) => key !== "seed")
    .map((key) => overAxis(state, rows, name, key))
    .filter(Boolean);
  if (keys.includes("seed")) axes.push(overSeeds(state, rows, name));
  if (!axes.length) axes.push(overAxis(state, rows, name, null));
  return {
    hint: `Each point is the median of its runs, with an interval. ${HOLLOW}`,
    choices: [quantity],
    charts: axes,
    numbers: () => groupNumbers(state, rows, name),
  };
}

/** Points over one axis; the other axes are series, or, where there are too many, put together too.
 *
 * Null for an axis that only follows others and can't be shown without putting these together.
 */
function overAxis(state, rows, name, key) {
  const kinds = groupKeys(state.data);
  const others = kinds.filter((other) => other !== key && !(key && tells(state.data, key, other)));
  const split = groupsOf(rows, others);
  if (key && split.length > MAX_SERIES && !kinds.includes(key)) return null;
  const series = split.length > MAX_SERIES ? [{ label: "all", rows }] : split;
  const points = series.flatMap(({ label, rows: own }) =>
    groupsOf(own, key ? [key] : []).map((group) => {
      const found = aggregateColumn(group.rows, name);
      const text = [
        key ? `${key} ${group.values[0]}` : group.label,
        series.length > 1 ? label : null,
        inWords(found),
        found.interval,
        care(found, state),
      ];
      return { x: key ? group.values[0] : group.label, series: label, ...found, text: text.filter(Boolean).join("\n") };
    }),
  );
  const names = series.map((one) => one.label);
  const ends = points.flatMap((point) => [point.median, point.low, point.high]);
  const scales = {
    x: axisScale(
      points.map((point) => point.x),
      key ?? "",
    ),
    y: valueScale(ends, null, duration),
  };
  return {
    caption: `${QUANTITIES[name]} over ${key ?? "the sweep"}${split.length > MAX_SERIES ? `, ${split.length} kinds put together` : ""}`,
    legend: () => legend(names),
    rows: () => points,
    draw: (width) => intervals(width, points, scales, names),
  };
}

function care(found, state) {
  return found.flags.length ? `${FLAGGED} ${reasons(found.flags, state.data)}` : null;
}

/** Each run's own time over the groups: how far single seeds lie apart. */
function overSeeds(state, rows, name) {
  return strip(
    state,
    rows,
    (row) => row[name],
    (row) => flagged(row[name], row.flagsOf(name)),
    {
      caption: `${QUANTITIES[name]}: a dot a seed, a bar at the median`,
      say: duration,
      flags: (row) => row.flagsOf(name),
    },
  );
}

function strip(state, rows, value, text, { caption, say, flags = () => [] }) {
  const groups = groupsOf(rows, groupKeys(state.data)).slice(0, MAX_BARS);
  const dots = groups.flatMap(({ label, rows: own }) =>
    own.map((row) => ({ x: value(row), y: label, flags: flags(row), text: `${row.label}\n${label}\n${text(row)}` })),
  );
  const medians = groups.map((group) => ({ y: group.label, ...aggregate(group.rows.map(value)) }));
  const values = dots.map((dot) => dot.x);
  const scale = (room) => acrossScale(values, say, room);
  return { caption, rows: () => dots, draw: (width) => strips(width, dots, medians, scale) };
}

/** A line a group: how many seeds, median and interval, marks. */
function groupNumbers(state, rows, name) {
  const lines = groupsOf(rows, groupKeys(state.data)).map((group) => {
    const found = aggregateColumn(group.rows, name);
    return [
      group.label,
      found.num,
      flagged(found.median, found.flags),
      duration(found.low),
      duration(found.high),
      found.interval,
      reasons(found.flags, state.data),
    ];
  });
  return plainTable(["", "n", "median", "from", "to", "interval", "read with care"], lines);
}

// ---- bridged, native, Linen twin

const VARIANTS = ["bridged", "native", "linen"];

function twins(state) {
  const found = new Map();
  for (const row of state.shown) if (row.twins != null && !found.has(row.program)) found.set(row.program, row);
  const rows = [...found.values()].slice(0, MAX_BARS * 2);
  const labels = rows.map((row) => groupsOf([row], groupKeys(state.data))[0].label);
  const points = rows.flatMap((row, place) =>
    Object.entries(state.data.pool[row.twins].ratios).map(([other, [median, low, high, flags]]) => ({
      y: labels[place],
      series: against(other),
      ...{ median, low, high, flags },
      text: `${labels[place]}: ${against(other)}\n${times3(median, 3, flags)}${low == null ? "" : ` (99 % interval ${times3(low)} to ${times3(high)})`}`,
    })),
  );
  const series = VARIANTS.slice(1)
    .map(against)
    .filter((name) => points.some((point) => point.series === name));
  return {
    hint: `Steady state of the same layer, measured in turns: 1 × is the same cost. ${HOLLOW}`,
    charts: [
      {
        caption: "bridged / other, median of the rounds with its 99 % interval",
        legend: () => legend(series),
        rows: () => points,
        draw: (width) => ratios(width, points, series, 1, times3),
      },
    ],
    numbers: () =>
      plainTable(
        ["", "variant", "trace", "lower", "compile", "steady", "bridged / it"],
        rows.flatMap((row, place) => variantLines(state.data.pool[row.twins], labels[place])),
      ),
  };
}

function against(name) {
  return `bridged / ${name === "linen" ? "Linen" : name}`;
}

function times3(ratio, digits = 3, flags = []) {
  return `${flags.length ? FLAGGED : ""}${number(ratio, digits)} ×`;
}

function variantLines(found, label) {
  return VARIANTS.filter((name) => found.costs[name]).map((name) => {
    const [trace, lower, compile, steady, flags] = found.costs[name];
    const ratio = found.ratios[name];
    const title = name === "linen" ? `Linen ${found.linen}` : name;
    return [
      label,
      title,
      duration(trace),
      duration(lower),
      duration(compile),
      flagged(steady, flags),
      ratio ? times3(ratio[0], 3, ratio[3]) : "–",
    ];
  });
}

// ---- phases

const PARTS = ["trace", "lower", "compile", "first call", "steady"];

function phases(state) {
  const { groups, note } = limitedGroups(state, (row) => row.apply_compile_s != null);
  const bar = (group, name) =>
    PARTS.map((part) => {
      const column = part === "steady" ? `${name}_latency` : `${name}_${part.replace(" ", "_")}_s`;
      const found = aggregateColumn(group.rows, column);
      return {
        y: group.label,
        part,
        value: found?.median,
        found,
        text: `${group.label}\n${name}: ${part} ${inWords(found)}`,
      };
    });
  const rows = Object.fromEntries(["init", "apply"].map((name) => [name, groups.flatMap((group) => bar(group, name))]));
  const contended = state.shown.some((row) => row.compile_contended);
  return {
    hint: `From the function to its result, median over seeds; the scale is logarithmic.${contended ? ` Programs of this sweep compiled side by side (${FLAGGED}).` : ""}${note}`,
    charts: ["init", "apply"].map((name) => ({
      caption: name,
      legend: () => legend(PARTS),
      rows: () => rows[name],
      draw: (width) => lanes(width, rows[name], PARTS, duration),
    })),
    numbers: () =>
      plainTable(
        ["", "of", ...PARTS],
        ["init", "apply"].flatMap((name) =>
          d3
            .groups(rows[name], (row) => row.y)
            .map(([label, parts]) => [
              label,
              name,
              ...parts.map((part) => flagged(part.found?.median, part.found?.flags)),
            ]),
        ),
      ),
  };
}
