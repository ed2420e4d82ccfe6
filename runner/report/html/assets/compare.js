// The page of a comparison: its one chart, how many times as long the second side takes.
"use strict";

async function start() {
  const { ratios: rows } = await unpack(document.getElementById("data").textContent);
  const holder = document.getElementById("ratios");
  if (rows.length) {
    const chart = ratios(Math.max(300, holder.clientWidth || 640), rows, ["B / A"], 1, (value) => `${number(value)} ×`);
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", "time of B divided by time of A");
    holder.append(chart);
  }
  document.documentElement.dataset.ready = "true";
}

chooseTheme();
start();
