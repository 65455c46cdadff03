// Pictures with a caption each. A click opens one large, with a link to keep it; or, where they are to be picked, picks it.
// value: {pictures: [{url, name, words, wide: takes all columns}], pick: bool, all: address of a zip of them}
const root = element.querySelector(".gallery-root");

function enlarge(index) {
  const picture = props.value.pictures[index];
  const step = (by) => {
    dialog.close();
    const count = props.value.pictures.length;
    enlarge((index + by + count) % count);
  };
  const large = node("img", { alt: picture.words || picture.name });
  limit(large, large).src = picture.url;
  const dialog = node("dialog", { class: "large", "aria-label": picture.words || picture.name },
    large,
    node("p", {}, picture.words),
    node("button", { type: "button", class: "close", onclick: () => step(-1) }, say("Previous")), " ",
    node("button", { type: "button", class: "close", onclick: () => step(1) }, say("Next")), " ",
    node("a", { class: "close", href: picture.url, download: picture.name }, say("Download")), " ",
    node("button", { type: "button", class: "close", onclick: () => dialog.close() }, say("Close")));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  showDialog(dialog);
}

function figure(picture, index, pick) {
  const words = picture.words || picture.name;
  const act = pick ? () => trigger("select", { index }) : () => enlarge(index);
  const label = pick ? say("use the settings of {words} again", { words }) : say("{words}: enlarge", { words });
  const image = node("img", { alt: "", loading: "lazy" });
  const made = node("figure", {}, node("button", { type: "button", class: "tile", "aria-label": label, onclick: act }, image));
  if (picture.wide) {
    made.classList.add("wide");
    image.src = picture.url;
  } else limit(image, made).src = picture.url;
  if (!pick) {
    made.append(node("figcaption", {}, picture.words, " ",
      node("a", { href: picture.url, download: picture.name, "aria-label": say("download {words}", { words }), title: say("download") }, "\u2193")));
  }
  return made;
}

function render() {
  const { pictures = [], pick = false } = props.value ?? {};
  root.classList.toggle("pick", pick);
  root.replaceChildren(...pictures.map((picture, index) => figure(picture, index, pick)));
  if (pictures.length > 1 && props.value.all) {
    root.append(node("p", { class: "all" }, node("a", { class: "button", href: props.value.all, download: "" }, pick ? say("Download all that was made (zip)") : say("Download all (zip)"))));
  }
  if (!pictures.length) root.replaceChildren(node("p", { class: "quiet empty" }, pick ? say("Nothing is drawn yet.") : say("Your pictures appear here.")));
}

render();
watch("value", render);
