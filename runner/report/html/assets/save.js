// Charts and their data taken along: SVG and PNG with the colours that are seen, CSV and JSON of what is drawn.
"use strict";

// Pixels of a PNG for each of the page's.
const SHARPNESS = 2;

// What an SVG takes from the page's style sheet, and must carry itself.
const CARRIED = ["fill", "stroke", "color", "font", "opacity", "stroke-opacity", "fill-opacity"];

/** A chart as an SVG of its own: what the page's style sheet gives it stands in it, its caption as its title. */
function ownSvg(svg, caption) {
  const copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, place) => {
    const style = getComputedStyle(originals[place]);
    for (const name of CARRIED) {
      const value = style.getPropertyValue(name);
      if (value) name === "font" ? carryFont(node, style) : node.setAttribute(name, value);
    }
    node.removeAttribute("style");
  });
  for (const node of copy.querySelectorAll("style, [aria-label=tip], .brush")) node.remove();
  const box = svg.viewBox.baseVal;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", box.width);
  copy.setAttribute("height", box.height);
  const paper = document.createElementNS(copy.namespaceURI, "rect");
  for (const [name, value] of Object.entries({ width: box.width, height: box.height })) paper.setAttribute(name, value);
  paper.setAttribute("fill", getComputedStyle(document.body).backgroundColor);
  const title = document.createElementNS(copy.namespaceURI, "title");
  title.textContent = caption;
  copy.prepend(title, paper);
  return new XMLSerializer().serializeToString(copy);
}

function carryFont(node, style) {
  if (!["text", "svg", "g", "tspan"].includes(node.localName)) return;
  node.setAttribute("font-size", style.fontSize);
  node.setAttribute("font-family", style.fontFamily);
}

/** A chart as PNG, in a promise. */
async function pngOf(svg, caption) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(ownSvg(svg, caption))}`;
  await image.decode();
  const box = svg.viewBox.baseVal;
  const canvas = element("canvas", { width: box.width * SHARPNESS, height: box.height * SHARPNESS });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** What is drawn, a line a mark: all values, without the words of its tip. */
function drawnRows(chart) {
  return chart.rows().map((row) =>
    Object.fromEntries(
      Object.entries(row)
        .filter(([name, value]) => !["text", "found"].includes(name) && typeof value !== "function")
        .map(([name, value]) => [name, Array.isArray(value) ? value.join(" ") : value]),
    ),
  );
}

/** Lines of values as CSV; all columns that any line has. */
function toCsv(lines) {
  const heads = [...new Set(lines.flatMap((line) => Object.keys(line)))];
  return csvLines([heads, ...lines.map((line) => heads.map((head) => line[head]))]);
}

function csvLines(lines) {
  const quoted = (value) => {
    const text = String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

function download(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A file's name from words. */
function fileName(words, ending) {
  const plain = words.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replaceAll(/^-|-$/g, "");
  return `${plain.slice(0, 80) || "chart"}.${ending}`;
}

/** The folded buttons of a chart; `holder` has its SVG. */
function saver(sweep, chart, holder) {
  const said = element("span", { role: "status", class: "hint" });
  const name = `${sweep} ${chart.caption}`;
  const svg = () => holder.querySelector("svg");
  const acts = {
    SVG: () => download(fileName(name, "svg"), ownSvg(svg(), chart.caption), "image/svg+xml"),
    PNG: async () => download(fileName(name, "png"), await pngOf(svg(), chart.caption)),
    Copy: async () => {
      // A page from another machine has a clipboard over https only.
      if (!navigator.clipboard?.write) throw new Error("this page has no clipboard; PNG saves the same");
      await navigator.clipboard.write([new ClipboardItem({ "image/png": pngOf(svg(), chart.caption) })]);
      said.textContent = " copied";
    },
  };
  if (chart.rows) {
    acts.CSV = () => download(fileName(name, "csv"), toCsv(drawnRows(chart)), "text/csv");
    acts.JSON = () => download(fileName(name, "json"), JSON.stringify(drawnRows(chart), null, 1), "application/json");
  }
  const act = (does) => async () => {
    said.textContent = "";
    try {
      await does();
    } catch (error) {
      said.textContent = ` This browser does not allow it here: ${error.message}`;
    }
  };
  const buttons = Object.entries(acts).map(([text, does]) =>
    element("button", { type: "button", "aria-label": `${text}: ${chart.caption}`, click: act(does) }, text),
  );
  return element("details", { class: "save" }, element("summary", {}, "Save"), buttons, said);
}
