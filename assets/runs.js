// All runs, newest first, with what can be done to each; below them the bin.
// value: {runs: [{id, title, subject, base, state, step, picture, files: [kind], working, place}], bin: [{id, title}]}
const root = element.querySelector(".runs-root");
const chosen = new Set();

function link(words, action, attributes = {}) {
  return node("button", { type: "button", class: "link", onclick: action, ...attributes }, words);
}

async function download(run, kind) {
  const answer = await fetch(`export/${encodeURIComponent(run.id)}/${kind}`);
  if (!answer.ok) {
    alert((await answer.json()).error);
    return;
  }
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition"))?.[1] ?? `${run.id}.zip`;
  const anchor = node("a", { href: URL.createObjectURL(await answer.blob()), download: name });
  root.append(anchor);
  anchor.click();
  URL.revokeObjectURL(anchor.href);
  anchor.remove();
}

function rename(run) {
  const title = prompt(say("Name of this run"), run.title);
  if (title !== null) trigger("edit", { id: run.id, title });
}

function row(run) {
  const why = run.working ? say("it is training") : null;
  const box = node("input", {
    type: "checkbox", "aria-label": say("compare {title}", { title: run.title }), checked: chosen.has(run.id),
    onchange: (event) => { chosen[event.target.checked ? "add" : "delete"](run.id); render(); },
  });
  const files = [["kohya", say("for ComfyUI, Forge, A1111")], ["diffusers", say("for diffusers")]]
    .filter(([kind]) => run.files.includes(kind))
    .map(([kind, words]) => link(words, () => download(run, kind)));
  const exported = menu([say("Export")], [...files, link(say("zip, without photos"), () => download(run, "zip")),
    link(say("zip, with photos"), () => download(run, "zip-with-photos")),
    link(say("all numbers (CSV)"), () => download(run, "csv"))], renderOnceClosed);
  const inLine = run.place ? [
    link(say("Train sooner"), () => trigger("submit", { id: run.id, move: "sooner" }), { disabled: run.place === 1 }),
    link(say("Take out of the line"), () => trigger("submit", { id: run.id, move: "out" })),
  ] : [];
  const more = menu([say("More")], [...inLine,
    link(say("Rename"), () => rename(run)),
    link(say("Plain DreamBooth beside it"), () => trigger("retry", { id: run.id }), { title: say("the same photos, seed and prompts, without APT") }),
    link(say("Train like this again"), () => trigger("copy", { id: run.id })),
    link(say("Put into the bin"), () => confirm(say("Put “{title}” into the bin? It can be taken out again.", { title: run.title })) && trigger("delete", { id: run.id }),
      { disabled: run.working, title: why ?? "" }),
  ], renderOnceClosed);
  const picture = run.picture ? node("img", { src: run.picture, alt: "", loading: "lazy" }) : node("span", { class: "tile" });
  return node("tr", { "data-run": run.id },
    node("td", {}, box),
    node("td", {}, node("button", { type: "button", class: "picture", "aria-label": say("open {title}", { title: run.title }), onclick: () => trigger("select", { id: run.id }) }, picture)),
    node("th", { scope: "row" }, link(run.title, () => trigger("select", { id: run.id })), node("small", {}, run.begun)),
    node("td", { "data-label": say("model") }, run.base),
    node("td", { class: "state", "data-label": say("state"), title: run.state }, node("span", {}, run.state)),
    node("td", { "data-label": say("kept") }, run.step),
    node("td", { class: "acts" },
      link(say("Generate"), () => trigger("play", { id: run.id }), { disabled: !run.files.length && !run.drawable, title: run.drawable ? "" : say("no checkpoint yet") }),
      exported, more));
}

function binOf(runs) {
  if (!runs.length) return null;
  const rows = runs.map((run) => node("li", {}, run.title, " ", link(say("take out"), () => trigger("undo", { id: run.id }))));
  const empty = link(say("empty the bin for good"), () => confirm(say("Delete everything in the bin for good?")) && trigger("clear", {}));
  return node("details", { class: "bin" }, node("summary", {}, say("Bin ({count})", { count: runs.length })), node("ul", {}, ...rows), empty);
}

// A menu that is open stays as it is; what came meanwhile is shown when it closes.
let waits = false;
function renderOnceClosed() {
  waits = Boolean(root.querySelector(".menu[open]"));
  if (!waits) render();
}

function render() {
  const { runs, bin } = props.value ?? { runs: [], bin: [] };
  for (const id of [...chosen]) if (!runs.some((run) => run.id === id)) chosen.delete(id);
  if (!runs.length) {
    root.replaceChildren(node("p", { class: "quiet" }, say("No runs yet. The Train tab has examples to begin with.")), ...[binOf(bin)].filter(Boolean));
    return;
  }
  const two = chosen.size === 2;
  const compare = node("button", {
    type: "button", class: "compare", disabled: !two, title: two ? "" : say("tick two runs"),
    onclick: () => trigger("apply", { ids: [...chosen] }),
  }, two ? say("Compare the two") : say("Compare: tick two runs"));
  const heads = ["", "", say("subject"), say("model"), say("state"), say("kept"), ""].map((words) => node("th", { scope: "col" }, words));
  const columns = ["box", "face", "subject", "model", "state", "kept", "acts"].map((name) => node("col", { class: name }));
  const table = node("table", { class: "runs" }, node("colgroup", {}, ...columns), node("thead", {}, node("tr", {}, ...heads)), node("tbody", {}, ...runs.map(row)));
  root.replaceChildren(node("div", { class: "above" }, compare), table, ...[binOf(bin)].filter(Boolean));
}

render();
watch("value", renderOnceClosed);
