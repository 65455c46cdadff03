// Samples of two runs side by side: a column a run, at a step of choice; a row a prompt.
// value: {prompts: [string], columns: [{name, steps: [{step, words}], start, urls: {"step-row": url}}]}
const root = element.querySelector(".sides-root");

function tile(column, row, prompt, select) {
  const image = node("img", { alt: "" });
  const box = node("span", { class: "tile" }, image);
  const show = () => {
    const url = column.urls[`${select.value}-${row}`] ?? "";
    image.hidden = !url;
    image.alt = `${column.name}, ${prompt}, ${select.selectedOptions[0]?.textContent ?? ""}`;
    if (url) limit(image, box).src = url;
  };
  select.addEventListener("change", show);
  show();
  return node("td", {}, box);
}

function render() {
  const { prompts = [], columns = [] } = props.value ?? {};
  if (!columns.length) {
    root.replaceChildren();
    return;
  }
  const selects = columns.map((column) => {
    const made = node("select", { "aria-label": say("step of {name}", { name: column.name }) }, ...column.steps.map(({ step, words }) => node("option", { value: step }, words)));
    made.value = column.start;
    return made;
  });
  const heads = columns.map((column, place) => node("th", { scope: "col" }, column.name, selects[place]));
  const rows = prompts.map((prompt, row) => node("tr", {}, node("th", { scope: "row" }, prompt),
    ...columns.map((column, place) => tile(column, row, prompt, selects[place]))));
  const table = node("table", {}, node("thead", {}, node("tr", {}, node("td"), ...heads)), node("tbody", {}, ...rows));
  root.replaceChildren(node("div", { class: "card samples" }, node("h2", { class: "title" }, say("Side by side")), table));
  root.scrollIntoView({ behavior: "smooth", block: "nearest" });
}

render();
watch("value", render);
