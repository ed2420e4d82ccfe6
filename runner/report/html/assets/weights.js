// How weights lie, where checkpoints were read for it: a chart a leaf, a line a run.
"use strict";

// More leaves than this are no longer read; a run's list of variables has all.
const MAX_LEAVES = 24;

/** The histograms of a run: leaf, counts, ends; none where its checkpoint was not read. */
function weightsOf(state, row) {
  return state.data.columns.weights?.[row.id] ?? [];
}

/** A chart for each leaf that any of `rows` has, with all of them in it. */
function weightCharts(state, rows) {
  const known = rows.filter((row) => weightsOf(state, row).length);
  const leaves = [...new Set(known.flatMap((row) => weightsOf(state, row).map(([leaf]) => leaf)))];
  const names = known.map((row) => runTitle(state, row));
  return leaves.slice(0, MAX_LEAVES).map((leaf) => {
    const points = known.flatMap((row, place) => {
      const found = weightsOf(state, row).find(([name]) => name === leaf);
      return found ? histogramPoints(found, names[place]) : [];
    });
    return {
      caption: `values of ${leaf}`,
      rows: () => points,
      legend: () => legend(names.slice(0, MAX_SERIES), [d3.symbolSquare]),
      draw: (width) => steps(width, points, names),
    };
  });
}

function histogramPoints([, counts, low, high], series) {
  const width = (high - low) / counts.length;
  const text = (place) => `${number(low + place * width, 3)} to ${number(low + (place + 1) * width, 3)}: ${counts[place]}`;
  const points = counts.map((y, place) => ({ x: low + place * width, y, series, text: `${series}\n${text(place)}` }));
  // The last step ends where the values do.
  return [...points, { ...points.at(-1), x: high }];
}

/** Histograms as outlines: `{x, y, series, text}`, each point the beginning of a step. */
function steps(width, points, series) {
  const color = colorOf(series);
  const values = points.map((point) => point.x);
  const counts = points.map((point) => point.y);
  const options = { x: "x", y: "y", z: "series", curve: "step-after" };
  return plot(width, 220, {
    x: acrossScale(values, (value, digits) => number(value, digits), width - LEFT - 20, { log: false }),
    y: valueScale([0, ...counts], null, (value) => number(value), { log: false, num: 4 }),
    marks: [
      ...(series.length === 1 ? [Plot.areaY(points, { ...options, fill: COLORS[0], fillOpacity: 0.25 })] : []),
      Plot.line(points, { ...options, stroke: (point) => color(point.series), strokeWidth: 1.6 }),
      tip(points, "x", "y", "text", Plot.pointerX),
    ],
  });
}

/** The part of a run's page. */
function weightsPart(state, row) {
  const charts = weightCharts(state, [row]);
  return charts.length ? part("Weights", drawCharts(charts)) : null;
}
