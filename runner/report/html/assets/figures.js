// The parts with charts, in the page's order. All show the rows that pass the table's filters, put together over seeds.
"use strict";

// More rows than this in a chart are no longer read; the table's filters choose others.
const MAX_BARS = 24;

/** Every part with charts, in the page's order: `has` says whether there is anything to show, `make` makes it.
 *
 * What is made: a hint, choices, charts (a caption, a legend, `draw` for a width), a body, and `numbers` as a table.
 */
const FIGURES = [
  { id: "trials", title: "Trials", has: (row) => row.trial != null, make: trials },
  { id: "times", title: "Times", has: (row) => Object.keys(QUANTITIES).some((name) => row[name] != null), make: times },
  { id: "twins", title: "Bridged, native, Linen twin", has: (row) => row.twins != null, make: twins },
  { id: "phases", title: "Phases", has: (row) => row.apply_compile_s != null, make: phases },
  { id: "outputs", title: "Outputs", has: (row) => row.output_norm != null, make: outputs },
  { id: "checks", title: "Checks", has: (row) => row.verdict != null, make: checks },
  { id: "losses", title: "Loss", has: (row) => row.training != null, make: losses },
  { id: "checkpoints", title: "Checkpoints", has: (row) => row.checkpoint_bytes != null, make: checkpoints },
];

/** Groups, and what is said where some are left out. */
function limitedGroups(state, passes) {
  const all = groupsOf(state.shown, groupKeys(state.data)).filter((group) => group.rows.some(passes));
  const note = all.length > MAX_BARS ? ` The first ${MAX_BARS} of ${all.length}; filter the table for others.` : "";
  return { groups: all.slice(0, MAX_BARS), note };
}

function choice(state, name, label, options) {
  const value = options.some(([key]) => key === state.choices[name]) ? state.choices[name] : options[0]?.[0];
  return { name, label, options, value };
}
