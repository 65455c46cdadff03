// The sample table: a row a prompt, first and last step beside a step of choice; any picture opens large, beside another step.
// The middle column begins at the kept step.
// value: {prompts: [string], notes: [string: since or until when], steps: [number], urls: {"step-index": url}, kept: number}
const root = element.querySelector(".samples-root");
let chosen = null; // a step, or null while it follows the kept one, or the middle one where none is kept
let made = "";

function nameOf(step, steps) {
  if (step === null) return "\u00a0";
  if (step === 0) return say("before");
  if (step === props.value.kept) return say("step {step}, kept", { step });
  return step === steps[steps.length - 1] ? say("step {step}, now", { step }) : say("step {step}", { step });
}

function nearest(steps, wanted) {
  return steps.reduce((best, step) => (Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best));
}

// Where a step lies along the slider, whose stops are the sampled steps, as a share of its length.
function shareOf(steps, wanted) {
  const after = steps.findIndex((step) => step >= wanted);
  if (after < 1) return after < 0 ? 1 : 0;
  return (after - (steps[after] - wanted) / (steps[after] - steps[after - 1])) / (steps.length - 1);
}

// Always three, so that nothing moves when pictures come in.
function columnsOf(steps, kept) {
  const last = steps[steps.length - 1];
  const best = kept ? nearest(steps, kept) : last;
  const first = best === last ? steps[Math.round((steps.length - 1) / 2)] : best; // not the same column twice
  const middle = steps.length < 3 ? null : chosen ?? first;
  return [steps[0], middle, steps.length > 1 ? last : null];
}

function tile(value, step, index) {
  const url = value.urls[`${step}-${index}`];
  if (!url) return node("span", { class: "tile" });
  const words = `${value.prompts[index]}, ${nameOf(step, value.steps)}`;
  const open = () => enlarge(value, step, index);
  const image = node("img", { alt: "", loading: "lazy" });
  const made = node("button", { class: "tile", type: "button", "aria-label": say("{words}: enlarge", { words }), onclick: open }, image);
  limit(image, made).src = url;
  return made;
}

function enlarge(value, step, index) {
  const steps = value.steps.filter((one) => value.urls[`${one}-${index}`]);
  const sides = [steps[0], step === steps[0] ? steps[steps.length - 1] : step].map((shown, number) => {
    const picture = node("img", { alt: "" });
    limit(picture, picture);
    const select = node("select", { "aria-label": number ? say("right: step") : say("left: step") },
      ...steps.map((one) => node("option", { value: one }, nameOf(one, value.steps))));
    const show = () => {
      picture.src = value.urls[`${select.value}-${index}`];
      picture.alt = `${value.prompts[index]}, ${nameOf(Number(select.value), value.steps)}`;
    };
    select.value = shown;
    select.addEventListener("change", show);
    show();
    return node("figure", {}, picture, node("figcaption", {}, select));
  });
  const dialog = node("dialog", { class: "large", "aria-label": value.prompts[index] },
    node("p", {}, value.prompts[index]), node("div", { class: "sides" }, ...sides),
    node("button", { type: "button", class: "close", onclick: () => dialog.close() }, say("Close")));
  showDialog(dialog);
}

function render() {
  const value = props.value;
  if (!value || !value.prompts.length) {
    root.replaceChildren(node("p", { class: "quiet" }, say("Samples are switched off for this run.")));
    return;
  }
  const key = JSON.stringify([value, chosen]);
  if (key === made) return;
  made = key;
  const steps = value.steps.length ? value.steps : [0];
  if (!steps.includes(chosen)) chosen = null;
  const columns = columnsOf(steps, value.kept);
  const heads = columns.map((step, place) =>
    node("th", { scope: "col", class: place === 1 ? "chosen" : "" },
      nameOf(step, steps)));
  const rows = value.prompts.map((prompt, index) =>
    node("tr", {}, node("th", { scope: "row" }, prompt, value.notes?.[index] ? node("em", {}, value.notes[index]) : null), ...columns.map((step) => node("td", {}, tile(value, step, index)))));
  const table = node("table", {}, node("thead", {}, node("tr", {}, node("td"), ...heads)), node("tbody", {}, ...rows));
  const scroller = node("div", { class: "samples", tabindex: 0, role: "group", "aria-label": say("samples by prompt and step") }, table);
  const slider = root.querySelector("input[type=range]") ?? node("input", {
    type: "range", min: 0, step: 1, "aria-label": say("step shown in the middle"),
    oninput: (event) => { chosen = props.value.steps[Number(event.target.value)]; render(); },
  });
  slider.max = steps.length - 1;
  slider.disabled = steps.length < 3;
  slider.value = steps.indexOf(columns[1]);
  if (columns[1] === null) slider.removeAttribute("aria-valuetext"); // until there is a step to choose
  else slider.setAttribute("aria-valuetext", nameOf(columns[1], steps));
  const line = root.querySelector(".choose") ?? node("label", { class: "choose" }, node("span", {}, slider, node("i", { class: "kept" })), node("b"));
  const mark = line.querySelector("i");
  mark.hidden = !value.kept || steps.length < 3;
  mark.title = say("kept, step {step}", { step: value.kept });
  mark.style.setProperty("--share", shareOf(steps, value.kept));
  line.querySelector("b").textContent = nameOf(columns[1], steps);
  if (line.parentNode === root) root.firstChild.replaceWith(scroller);
  else root.replaceChildren(scroller, line);
}

document.addEventListener("show-step", ({ detail: wanted }) => {
  const steps = props.value?.steps ?? [];
  if (steps.length < 3) return;
  chosen = nearest(steps, wanted);
  render();
});
render();
watch("value", render);
