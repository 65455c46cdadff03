// The languages to choose from; the page is opened anew in the chosen one. value: {chosen: tag, languages: {tag: name}, note}
const root = element.querySelector(".language-root");

function speak(tag) {
  const there = new URL(location.href);
  there.searchParams.set("lang", tag);
  location.replace(there);
}

function render() {
  const { chosen, languages, note } = props.value;
  const options = Object.entries(languages).map(([tag, name]) => node("option", { value: tag, lang: tag, selected: tag === chosen }, name));
  const select = node("select", { onchange: (event) => speak(event.target.value) }, ...options);
  root.replaceChildren(node("label", {}, node("span", {}, say("Language")), " ", select), ...(note ? [node("p", { class: "quiet" }, note)] : []));
}

render();
