// Each plot of the tab as a PNG: a button a plot, by its title. Drawn anew on a canvas from what the page shows, at twice its size.
// And a link to all numbers. value: id of the run, for the files' names; empty while it has no numbers.
const root = element.querySelector(".pngs-root");
const SCALE = 2, MARGIN = 12;

function plots() {
  const shown = [...document.querySelectorAll(".plot")].filter((plot) => plot.offsetParent && plot.querySelector("svg path, svg rect"));
  return shown.map((plot) => [titleOf(plot), plot]).filter(([title]) => title);
}

function titleOf(plot) {
  const near = plot.parentElement.querySelector(":scope > h2.title") ?? plot.closest(".block, section")?.querySelector("h2.title");
  return near?.textContent ?? plot.getAttribute("aria-label").split(",")[0];
}

function drawShapes(paint, svg, left, top) {
  const box = svg.getBoundingClientRect();
  const stretch = new DOMMatrix([box.width / 100, 0, 0, box.height / 100, box.left - left, box.top - top]);
  for (const shape of svg.querySelectorAll("path, rect")) {
    const style = getComputedStyle(shape), place = new Path2D(), own = new Path2D(shape.getAttribute("d") ?? "");
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(shape.getAttribute(name)));
    if (shape.tagName === "rect") own.rect(x, y, width, height);
    place.addPath(own, stretch);
    paint.globalAlpha = Number(style.opacity);
    if (style.fill !== "none") { paint.fillStyle = style.fill; paint.fill(place); }
    if (style.stroke === "none") continue;
    Object.assign(paint, { strokeStyle: style.stroke, lineWidth: parseFloat(style.strokeWidth), lineJoin: style.strokeLinejoin, lineCap: style.strokeLinecap });
    paint.setLineDash(style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(",").map(parseFloat));
    paint.stroke(place);
  }
  paint.globalAlpha = 1;
  paint.setLineDash([]);
}

function drawWords(paint, part, left, top) {
  const texts = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  paint.textBaseline = "middle";
  while (texts.nextNode()) {
    range.selectNodeContents(texts.currentNode);
    const box = range.getBoundingClientRect(), style = getComputedStyle(texts.currentNode.parentElement);
    if (!box.width || texts.currentNode.parentElement.closest("svg")) continue;
    paint.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    paint.fillStyle = style.color;
    paint.fillText(texts.currentNode.textContent.trim(), box.left - left, (box.top + box.bottom) / 2 - top);
  }
}

function drawLegend(paint, plot, legend, left, top) {
  for (const shade of legend.querySelectorAll("i")) {
    const box = shade.getBoundingClientRect();
    paint.fillStyle = getComputedStyle(shade).backgroundColor;
    paint.fillRect(box.left - left, box.top - top, box.width, box.height);
  }
  for (const entry of legend.querySelectorAll("li")) {
    const line = [...plot.querySelectorAll("path.line")].find((path) => path.dataset.name === entry.textContent);
    if (!line) continue;
    const box = entry.getBoundingClientRect(), style = getComputedStyle(line), y = (box.top + box.bottom) / 2 - top;
    Object.assign(paint, { strokeStyle: style.stroke, lineWidth: parseFloat(style.strokeWidth) });
    paint.setLineDash(style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(",").map(parseFloat));
    paint.beginPath();
    paint.moveTo(box.left - left, y);
    paint.lineTo(box.left - left + 16, y);
    paint.stroke();
  }
  paint.setLineDash([]);
}

function drawn(title, plot) {
  const legend = plot.nextElementSibling?.matches(".legend") ? plot.nextElementSibling : null;
  const box = plot.getBoundingClientRect(), bottom = (legend ?? plot).getBoundingClientRect().bottom;
  const left = box.left - MARGIN, top = box.top - MARGIN - 24;
  const canvas = document.createElement("canvas");
  canvas.width = SCALE * (box.width + 2 * MARGIN);
  canvas.height = SCALE * (bottom - top + MARGIN);
  const paint = canvas.getContext("2d"), style = getComputedStyle(root);
  paint.scale(SCALE, SCALE);
  paint.fillStyle = style.backgroundColor;
  paint.fillRect(0, 0, canvas.width, canvas.height);
  Object.assign(paint, { font: `600 16px ${style.fontFamily}`, fillStyle: style.color, textBaseline: "middle" });
  paint.fillText(title, MARGIN, MARGIN + 6);
  drawShapes(paint, plot.querySelector("svg"), left, top);
  drawWords(paint, plot, left, top);
  if (legend) { drawWords(paint, legend, left, top); drawLegend(paint, plot, legend, left, top); }
  return canvas;
}

function save(title) {
  const plot = plots().find(([name]) => name === title)?.[1];
  if (!plot) return;
  drawn(title, plot).toBlob((blob) => {
    const link = node("a", { href: URL.createObjectURL(blob), download: `${props.value || "run"} ${title}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}

let made = "";
function offer() {
  const titles = [...new Set(plots().map(([title]) => title))];
  const key = [props.value, ...titles].join();
  if (key === made) return;
  made = key;
  const buttons = titles.map((title) => node("button", { type: "button", class: "link", onclick: () => save(title) }, title));
  const numbers = node("a", { class: "link", href: `export/${encodeURIComponent(props.value)}/csv`, download: "" }, say("All numbers of this run (CSV)"));
  const plotted = titles.length ? [node("span", {}, say("Plots as PNG:")), ...buttons] : [];
  root.replaceChildren(...plotted, ...(props.value ? [numbers] : []));
}

new IntersectionObserver(([entry]) => entry.isIntersecting && offer()).observe(root);
watch("value", () => root.offsetParent && offer());
