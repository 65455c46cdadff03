// What to draw with: two lines and a picture each. value: {choices: [{id, title, words, picture, mine}], chosen: id}
const root = element.querySelector(".models-root");

function face(choice) {
  const picture = choice.picture ? node("img", { src: choice.picture, alt: "", loading: "lazy" }) : node("span", { class: "tile" });
  return [picture, node("span", {}, node("b", {}, choice.title), node("small", {}, choice.words))];
}

function choose(id) {
  props.value = { ...props.value, chosen: id };
  render();
  root.querySelector("summary").focus();
  trigger("input");
}

function option(choice) {
  const is = choice.id === props.value.chosen;
  const made = node("button", { type: "button", class: "model", "aria-pressed": String(is), onclick: () => choose(choice.id) }, ...face(choice));
  if (!choice.mine) return made;
  const out = node("button", { type: "button", class: "link", "aria-label": say("delete {title}", { title: choice.title }), onclick: () => confirm(say("Delete the LoRA file “{title}”?", { title: choice.title })) && trigger("delete", { id: choice.id }) }, say("delete"));
  return node("div", { class: "mine" }, made, out);
}

function render() {
  const { choices, chosen } = props.value;
  const now = choices.find((choice) => choice.id === chosen) ?? choices[choices.length - 1];
  const list = menu(face(now), choices.map(option), renderOnceClosed);
  list.querySelector("summary").setAttribute("aria-label", `LoRA: ${now.title}, ${now.words}`);
  root.replaceChildren(node("span", { class: "label" }, "LoRA"), list);
}

function renderOnceClosed() {
  if (!root.querySelector(".menu[open]")) render();
}

render();
watch("value", renderOnceClosed);
