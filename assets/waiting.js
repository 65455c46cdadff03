// Pictures in line, and why the last ones could not be drawn. value: {wishes: [{id, words}], words, problem}
const root = element.querySelector(".waiting-root");

function row(wish, place) {
  const act = (words, move, disabled) =>
    node("button", { type: "button", class: "link", disabled, onclick: () => trigger("submit", { id: wish.id, move }) }, words);
  return node("li", {}, node("span", {}, wish.words), act(say("sooner"), "sooner", place === 0), act(say("take out"), "out", false));
}

function render() {
  const { wishes = [], words = "", problem = "" } = props.value ?? {};
  const parts = [];
  if (problem) parts.push(node("p", { class: "problem", role: "alert" }, problem));
  if (wishes.length) parts.push(node("p", { class: "quiet" }, words), node("ol", {}, ...wishes.map(row)));
  root.replaceChildren(...parts);
}

render();
watch("value", render);
