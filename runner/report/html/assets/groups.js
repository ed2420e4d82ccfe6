// Groups of runs by what the reader chooses, each relative to a group that is the baseline.
"use strict";

function relative(state) {
  const keys = Object.keys(state.data.axes);
  const all = groupKeys(state.data);
  const options = [
    ...(all.length > 1 ? [["kinds", "all but the seed"]] : []),
    ...d3.sort(keys, (key) => key === "seed").map((key) => [key, key]),
    ...["layer", "host", "status"].filter((key) => !keys.includes(key)).map((key) => [key, key]),
  ].filter(([key]) => key === "kinds" || new Set(state.shown.map((row) => groupValue(row, keys, key))).size > 1);
  const by = choice(state, "by", "Group by", options);
  const values = columnOptions(state, (column) => ["time", "size", "number", "count"].includes(column.kind));
  const preferred = firstOf(values, ["loss_last", "apply_latency", "output_norm"]);
  const value = choice(state, "value", "value", values, preferred);
  const column = columnOf(state, value.value);
  if (!column || !by.value) return { hint: "There is one group." };
  const groups = valueGroups(state, by.value, keys, column.field);
  const base = choice(state, "baseline", "relative to", groups.map(({ label }) => [label, label]));
  const baseline = groups.find(({ label }) => label === base.value)?.found;
  const say = sayColumn(column);
  // A ratio needs values above zero; other values are shown as they are.
  const asRatio = groups.every(({ found }) => found.median > 0);
  const shown = groups.slice(0, MAX_BARS);
  const over = (number) => (number == null ? null : asRatio ? number / baseline.median : number);
  const rows = shown.map(({ label, found }) => ({
    y: label,
    series: column.title,
    ...{ median: over(found.median), low: over(found.low), high: over(found.high), flags: found.flags ?? [] },
    text: [label, inWords(found, say), asRatio ? `${times3(over(found.median))} of ${base.value}` : null]
      .filter(Boolean)
      .join("\n"),
  }));
  const hint = asRatio
    ? "The median of each group over that of the baseline, with its interval over the same."
    : "Not all values are above zero: they are shown as they are, and as differences in the numbers.";
  return {
    hint: `${hint}${groups.length > shown.length ? ` The first ${shown.length} of ${groups.length} groups.` : ""}`,
    choices: [by, value, base],
    charts: [
      {
        caption: asRatio ? `${column.title} relative to ${base.value}` : column.title,
        rows: () => rows,
        draw: (width) =>
          ratios(width, rows, [column.title], asRatio ? 1 : baseline.median, asRatio ? times3 : say, { log: asRatio }),
      },
    ],
    numbers: () =>
      plainTable(
        ["", "n", "median", "from", "to", "interval", `relative to ${base.value}`],
        groups.map(({ label, found }) => [
          label,
          found.num,
          flagged2(found, say),
          found.low == null ? "–" : say(found.low),
          found.high == null ? "–" : say(found.high),
          found.interval,
          relativeWords(found.median, baseline.median, { asRatio, say }),
        ]),
      ),
  };
}

function flagged2(found, say) {
  return (found.flags?.length ? FLAGGED : "") + say(found.median);
}

function relativeWords(value, base, { asRatio, say }) {
  if (!asRatio) return `${value >= base ? "+" : ""}${say(value - base)}`;
  const percent = (value / base - 1) * 100;
  return `${times3(value / base)} (${percent > 0 ? "+" : ""}${number(percent, 3)} %)`;
}

function groupValue(row, keys, key) {
  return keys.includes(key) ? row[`set.${key}`] : row[key];
}

/** Groups that have the value: `{label, rows, found}`. */
function valueGroups(state, by, keys, field) {
  const groups =
    by === "kinds"
      ? groupsOf(state.shown, groupKeys(state.data))
      : [...d3.group(state.shown, (row) => groupValue(row, keys, by))].map(([value, rows]) => ({
          label: `${shortName(by, keys)}=${value ?? "–"}`,
          rows,
        }));
  return groups
    .map(({ label, rows }) => ({ label, rows, found: aggregateColumn(rows, field) }))
    .filter(({ found }) => found);
}
