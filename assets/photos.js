// The photos as tiles: drop or choose many, take one out, move the square that is cut out of it.
// value: {photos: [{path, name, url, whole, box: [left, top, side] or null, bucket: [width, height] or null, caption, warnings: [string]}],
//   problems: [string], round, unfold: bool}
// left and top are shares of the width and height, side of the shorter side; with a bucket its proportions are learnt, around the square's middle.
const root = element.querySelector(".photos-root");
const LEAST_SIDE = 0.3; // of the photo's shorter side
let waiting = "";
let mine = null; // the newest change made here; the answer to an older one must not undo it
let rounds = 0;
let said = []; // what could not be taken in, last time
let wasUnfolded = false; // the captions, once they were written by a model
let listed = null; // the photos whose captions are listed

// A line a photo, which stays the same elements while the photos are the same: a field keeps its focus.
function listCaptions(photos) {
  const key = JSON.stringify(photos.map((photo) => [photo.path, photo.url]));
  if (key !== listed) {
    listed = key;
    captions.querySelector("ul").replaceChildren(...photos.map((photo, index) => {
      const picture = photo.url ? node("img", { src: photo.url, alt: "", width: 44, height: 44 }) : node("span", { class: "tile" });
      const field = node("input", { type: "text", maxlength: 300, "aria-label": say("caption of {name}", { name: photo.name }),
        placeholder: "a photo of a {subject}", onchange: (event) => keep(photo.path, index, event.target.value) });
      return node("li", {}, picture, field);
    }));
  }
  captions.querySelectorAll("input").forEach((field, index) => {
    if (field !== document.activeElement) field.value = photos[index].caption ?? "";
  });
  captions.hidden = !photos.length;
}

function keep(path, index, caption) {
  change(props.value.photos.map((one, at) => (at === index && one.path === path ? { ...one, caption } : one)));
}

function change(photos) {
  rounds += 1;
  mine = { ...props.value, photos, round: rounds };
  props.value = mine;
  render(); // the answer may hold nothing new, and then nothing would be drawn
  trigger("input");
}

function take() {
  if (mine && props.value?.round < mine.round) {
    props.value = mine;
    trigger("input");
  }
  if (props.value?.unfold && !wasUnfolded) captions.open = wasUnfolded = true;
  render();
}

const stem = (name) => name.replace(/\.[^.]*$/, "").toLowerCase();

async function add(files) {
  const list = [...files];
  const added = [], captions = new Map();
  said = [];
  for (const [index, file] of list.entries()) {
    waiting = say("adding {number} of {count}", { number: index + 1, count: list.length });
    render();
    try {
      const body = new FormData();
      body.append("file", file);
      const answer = await fetch("photos", { method: "POST", body });
      const { path, caption, error } = await answer.json();
      if (error) throw new Error(error);
      if (caption !== undefined) captions.set(file.name, caption);
      else added.push({ path, name: file.name, url: "", whole: "", box: null, caption: "", warnings: [] });
    } catch (error) {
      const reason = error.message ?? String(error);
      said.push(isCaption(file) ? reason : say("{name} could not be added: {reason}", { name: file.name, reason }));
    }
  }
  waiting = "";
  const photos = [...props.value.photos, ...added];
  for (const [name, caption] of captions) {
    const place = photos.findIndex((photo) => stem(photo.name) === stem(name));
    if (place < 0) said.push(say("{name} lies beside none of these photos; give it the name of one.", { name }));
    else photos[place] = { ...photos[place], caption };
  }
  if (added.length || captions.size) change(photos);
  else render();
}

const isCaption = (file) => file.name.toLowerCase().endsWith(".txt");

function tile(photo, index) {
  const others = () => props.value.photos.filter((_, place) => place !== index);
  const picture = photo.url ? node("img", { class: "photo", src: photo.url, alt: photo.name }) : node("span", { class: "tile" });
  const notes = photo.warnings.map((words) => node("span", { class: "pill", title: words }, words));
  return node("li", {},
    node("button", { type: "button", class: "frame", "aria-label": say("crop {name}", { name: photo.name }), onclick: () => crop(index) }, picture),
    node("button", { type: "button", class: "remove", "aria-label": say("take {name} out", { name: photo.name }), onclick: () => change(others()) }, "\u00d7"),
    node("div", { class: "pills" }, ...notes));
}

function crop(index) {
  const photo = props.value.photos[index];
  const image = node("img", { src: photo.whole, alt: photo.name, draggable: "false" });
  const handles = ["nw", "ne", "sw", "se"].map((corner) => node("i", { class: corner, "data-corner": corner }));
  const square = node("div", { class: "square", tabindex: 0, role: "slider", "aria-label": say("the part that is learnt: arrow keys move it"),
    "aria-valuenow": 0, "aria-valuetext": say("square around the subject") }, ...handles);
  const sizes = node("input", { type: "range", min: 100 * LEAST_SIDE, max: 100, value: 100, "aria-label": say("size of the square") });
  const learnt = photo.bucket ? [node("div", { class: "learnt" })] : [];
  const stage = node("div", { class: "stage" }, image, ...learnt, square);
  let [left, top, side] = photo.box ?? [0, 0, 1];

  function place() {
    const [width, height] = [image.clientWidth, image.clientHeight];
    if (!width) return; // not loaded yet
    const length = side * Math.min(width, height);
    left = Math.max(0, Math.min(left, 1 - length / width));
    top = Math.max(0, Math.min(top, 1 - length / height));
    Object.assign(square.style, { left: `${left * width}px`, top: `${top * height}px`, width: `${length}px`, height: `${length}px` });
    for (const frame of learnt) {
      const scale = Math.min(width / photo.bucket[0], height / photo.bucket[1]);
      const [wide, high] = photo.bucket.map((pixels) => scale * pixels);
      const x = Math.max(0, Math.min(left * width + (length - wide) / 2, width - wide));
      const y = Math.max(0, Math.min(top * height + (length - high) / 2, height - high));
      Object.assign(frame.style, { left: `${x}px`, top: `${y}px`, width: `${wide}px`, height: `${high}px` });
    }
  }
  // A corner is dragged while the one across from it stays.
  function resize(corner, by, from) {
    const [width, height] = [image.clientWidth, image.clientHeight];
    const shorter = Math.min(width, height), isLeft = corner.endsWith("w"), isTop = corner.startsWith("n");
    const across = [from.left * width + (isLeft ? from.side * shorter : 0), from.top * height + (isTop ? from.side * shorter : 0)];
    const room = Math.min(isLeft ? across[0] : width - across[0], isTop ? across[1] : height - across[1]);
    const wanted = from.side * shorter + ((isLeft ? -by[0] : by[0]) + (isTop ? -by[1] : by[1])) / 2;
    const length = Math.max(LEAST_SIDE * shorter, Math.min(room, wanted));
    side = length / shorter;
    left = (across[0] - (isLeft ? length : 0)) / width;
    top = (across[1] - (isTop ? length : 0)) / height;
    sizes.value = Math.round(side * 100);
    place();
  }
  square.addEventListener("pointerdown", (start) => {
    const from = { left, top, side }, { corner } = start.target.dataset;
    square.setPointerCapture(start.pointerId);
    square.onpointermove = (event) => {
      const by = [event.clientX - start.clientX, event.clientY - start.clientY];
      if (corner) {
        resize(corner, by, from);
        return;
      }
      left = from.left + by[0] / image.clientWidth;
      top = from.top + by[1] / image.clientHeight;
      place();
    };
    square.onpointerup = () => { square.onpointermove = null; };
  });
  square.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02] };
    if (!moves[event.key]) return;
    event.preventDefault();
    [left, top] = [left + moves[event.key][0], top + moves[event.key][1]];
    place();
  });
  sizes.value = Math.round(side * 100);
  sizes.addEventListener("input", () => { side = sizes.value / 100; place(); });
  image.addEventListener("load", place);
  const caption = node("input", { type: "text", value: photo.caption ?? "", placeholder: "a photo of a {subject}", maxlength: 300 });
  const done = () => {
    const changed = { box: [left, top, side], caption: caption.value };
    change(props.value.photos.map((one, at) => (at === index ? { ...one, ...changed } : one)));
    dialog.close();
  };
  const dialog = node("dialog", { class: "large", "aria-label": say("crop {name}", { name: photo.name }) },
    node("p", {}, photo.bucket ? say("What is bright is learnt. Move the dashed square over what must stay in the picture.")
      : say("Move the square over the subject, or drag its corners; what is outside is not learnt.")), stage,
    node("label", { class: "choose" }, say("size"), sizes),
    node("label", { class: "choose caption" }, say("caption"), caption),
    node("button", { type: "button", class: "close", onclick: done }, say("Use this part")), " ",
    node("button", { type: "button", class: "close", onclick: () => dialog.close() }, say("Cancel")));
  showDialog(dialog);
  place();
}

function render() {
  const { photos = [], problems = [] } = props.value ?? {};
  const input = node("input", { type: "file", multiple: true, accept: "image/*,.heic,.heif,.avif,.txt",
    "aria-label": say("photos"), onchange: (event) => add(event.target.files) });
  const words = waiting || (photos.length ? say("Add more") : say("Drop photos here, or click"));
  const adder = node("label", { class: "add" }, node("b", { "aria-hidden": "true" }, "+"), node("span", {}, words), input);
  const list = node("ul", { class: photos.length ? "tiles" : "tiles empty" }, ...photos.map(tile), node("li", { class: "adder" }, adder));
  const left = [...said, ...problems].map((sentence) => node("li", {}, sentence));
  above.replaceChildren(list, ...(left.length ? [node("ul", { class: "warnings", role: "alert" }, ...left)] : []));
  listCaptions(photos);
}

const about = say("{subject} stands for your thing. Empty: the usual caption. Text files beside the photos (cat.txt beside cat.jpg) may be dropped with them.");
const captions = node("details", { class: "captions" }, node("summary", {}, say("Captions")), node("p", { class: "quiet" }, about), node("ul"));
const above = node("div");
root.replaceChildren(above, captions);

// A photo dropped beside the zone is taken too; the browser would leave the page for it.
const isShown = () => Boolean(root.offsetParent);
document.addEventListener("dragover", (event) => {
  if (!isShown()) return;
  event.preventDefault();
  root.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || root.classList.remove("over"));
document.addEventListener("drop", (event) => {
  if (!isShown() || !event.dataTransfer.files.length) return;
  event.preventDefault();
  root.classList.remove("over");
  add(event.dataTransfer.files);
});
render();
watch("value", take);
