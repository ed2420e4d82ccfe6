// The parts with charts, in the page's order. All show the rows that pass the table's filters, put together over seeds.
"use strict";

// More rows than this in a chart are no longer read; the table's filters choose others.
const MAX_BARS = 24;

/** Every part with charts: `has` says whether there is anything to show, `make` makes it.
 *
 * What is made: a hint, choices, charts (a caption, a legend, `rows` that are drawn, `draw` for a width), a body, and
 * `numbers` as a table.
 */
const FIGURES = [
  { id: "chosen", title: "Chosen runs", has: () => state.chosen.size > 0, make: together },
  { id: "trials", title: "Trials", has: (row) => row.trial != null, make: trials },
  { id: "losses", title: "Loss", has: (row) => row.training != null, make: losses },
  { id: "outputs", title: "Outputs", has: (row) => row.output_norm != null, make: outputs },
  { id: "times", title: "Times", has: (row) => Object.keys(QUANTITIES).some((name) => row[name] != null), make: times },
  { id: "checks", title: "Checks", has: (row) => row.verdict != null, make: checks },
  { id: "scatter", title: "Any two columns", has: (row) => row.status === "done", make: scatter },
  { id: "parallel", title: "Parallel coordinates", has: (row) => row.status === "done", make: parallel },
  { id: "groups", title: "Groups against a baseline", has: (row) => row.status === "done", make: relative },
  { id: "twins", title: "Bridged, native, Linen twin", has: (row) => row.twins != null, make: twins },
  { id: "phases", title: "Phases", has: (row) => row.apply_compile_s != null, make: phases },
  { id: "checkpoints", title: "Checkpoints", has: (row) => row.checkpoint_bytes != null, make: checkpoints },
];

/** The parts that a sweep is about: they come first and are open, and the others are folded. */
function subjects(data) {
  const axes = Object.keys(data.axes);
  if (data.search) return ["trials", "times"];
  if (data.columns.training.some((place) => place != null)) return ["losses"];
  if (axes.every((key) => key === "seed")) return ["outputs"];
  const checked = axes.includes("layer") || axes.includes("host");
  return checked ? ["checks", "times"] : ["times"];
}

/** The parts that have something to show: chosen runs, then what the sweep is about, then the rest. */
function orderedFigures(state) {
  const first = ["chosen", ...subjects(state.data)];
  const rank = ({ id }) => (first.includes(id) ? first.indexOf(id) : first.length);
  const there = FIGURES.filter((figure) => state.shown.some(figure.has));
  return d3.sort(there, rank).map((figure) => ({
    ...figure,
    open: state.open.get(figure.id) ?? (first.includes(figure.id) || figure.id === "scatter"),
  }));
}

/** Groups, and what is said where some are left out. */
function limitedGroups(state, passes) {
  const all = groupsOf(state.shown, groupKeys(state.data)).filter((group) => group.rows.some(passes));
  const note = all.length > MAX_BARS ? ` The first ${MAX_BARS} of ${all.length}; filter the table for others.` : "";
  return { groups: all.slice(0, MAX_BARS), note };
}

/** A choice among options: the reader's, else `usual`, else the first. */
function choice(state, name, label, options, usual = options[0]?.[0]) {
  const value = options.some(([key]) => key === state.choices[name]) ? state.choices[name] : usual;
  return { name, label, options, value };
}
