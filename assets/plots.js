// The values under the pointer, beside it, read off the drawing of a plot. A click on one moves the samples to its step.
const root = element.querySelector(".plots-root");

function stepAt(svg, event) {
  const box = svg.getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  return share * Number(svg.dataset.right);
}

function pointNear(path, step, right) {
  const points = path.getAttribute("d").slice(1).split("L").map((point) => point.split(" ").map(Number));
  const away = ([x]) => Math.abs(x * right / 100 - step);
  return points.reduce((best, point) => (away(point) < away(best) ? point : best));
}

// Three digits, also where they are noughts.
function spell(value) {
  const digits = (value.toPrecision(3).split("e")[0].split(".")[1] ?? "").length;
  return value.toLocaleString(document.documentElement.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function wordsOf(plot, svg, event) {
  if (event.target.dataset?.words) return event.target.dataset.words;
  const paths = [...svg.querySelectorAll("path.line")];
  if (!paths.length) return "";
  const [low, top, right] = ["low", "top", "right"].map((name) => Number(plot.dataset[name]));
  const found = paths.map((path) => [path.dataset.name, ...pointNear(path, stepAt(svg, event), right)]);
  const values = found.map(([name, , y]) => `${name} ${spell(low + (100 - y) / 100 * (top - low))}`);
  return [say("step {step}", { step: Math.round(found[0][1] * right / 100) }), ...values].join("\n");
}

function over(event) {
  const plot = event.target.closest?.(".plot");
  const svg = plot?.querySelector("svg");
  return svg && event.target.closest("svg") ? [plot, svg] : null;
}

document.addEventListener("pointermove", (event) => {
  const found = over(event);
  root.textContent = found ? wordsOf(...found, event) : "";
  if (!root.textContent) return;
  const isRight = event.clientX > innerWidth / 2;
  Object.assign(root.style, { top: `${event.clientY + 14}px`, left: isRight ? "" : `${event.clientX + 14}px`,
    right: isRight ? `${innerWidth - event.clientX + 14}px` : "" });
});
document.addEventListener("click", (event) => {
  const found = over(event);
  if (found) document.dispatchEvent(new CustomEvent("show-step", { detail: stepAt(found[1], event) }));
});
