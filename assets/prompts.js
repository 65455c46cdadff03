// Prompts to try; a click takes one. value: {prompts: [string]}
const root = element.querySelector(".prompts-root");

function render() {
  const buttons = (props.value?.prompts ?? []).map((words) =>
    node("button", { type: "button", class: "suggestion", onclick: () => trigger("select", { prompt: words }) }, words));
  root.replaceChildren(...buttons);
}

render();
watch("value", render);
