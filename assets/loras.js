// LoRAs beside the chosen one, a row each. value: {choices: [{id, title, words}], rows: [{id, strength}], chosen, most, highest}
const root = element.querySelector(".loras-root");

function change(rows) {
  props.value = { ...props.value, rows };
  trigger("input");
}

function row(one, place) {
  const { choices, rows, highest } = props.value;
  const set = (changes) => change(props.value.rows.map((other, at) => (at === place ? { ...other, ...changes } : other)));
  const title = choices.find((choice) => choice.id === one.id)?.title ?? one.id;
  const list = node("select", { "aria-label": say("LoRA {number}", { number: place + 2 }), onchange: (event) => set({ id: event.target.value }) },
    ...choices.map((choice) => node("option", { value: choice.id, selected: choice.id === one.id }, `${choice.title}, ${choice.words}`)));
  const spell = (strength) => strength.toLocaleString(document.documentElement.lang, { minimumFractionDigits: 2 });
  const shown = node("output", {}, spell(one.strength));
  const strength = node("input", { type: "range", min: 0, max: highest, step: 0.05, value: one.strength, "aria-label": say("Strength of {title}", { title }),
    oninput: (event) => { shown.textContent = spell(Number(event.target.value)); },
    onchange: (event) => set({ strength: Number(event.target.value) }) });
  const out = node("button", { type: "button", class: "link", "aria-label": say("take {title} out", { title }), onclick: () => { change(rows.filter((_, at) => at !== place)); render(); root.querySelector(".add")?.focus(); } }, say("take out"));
  return node("li", {}, list, strength, shown, out);
}

function add() {
  const { choices, rows, chosen } = props.value;
  const taken = new Set([chosen, ...rows.map((one) => one.id)]);
  const next = choices.find((choice) => !taken.has(choice.id)) ?? choices[0];
  change([...rows, { id: next.id, strength: 0.5 }]);
  render();
  root.querySelector("li:last-of-type select").focus();
}

function render() {
  if (root.contains(document.activeElement) && document.activeElement.matches("input, select")) return; // it is in use
  const { choices = [], rows = [], most = 0 } = props.value ?? {};
  const parts = [];
  if (rows.length) parts.push(node("ul", {}, ...rows.map(row)));
  if (choices.length && rows.length < most) parts.push(node("button", { type: "button", class: "link add", onclick: add }, rows.length ? say("add another LoRA") : say("add a LoRA beside it")));
  root.replaceChildren(...parts);
}

render();
watch("value", render);
