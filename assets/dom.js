// Stands before each script of a component: makes an element with attributes, listeners (on...) and children.
// An attribute that is null or false is left out; true stands without a value. Text is never taken for HTML.
function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Shows a picture at no more than three times its pixels; `box` is what is kept that small.
function limit(image, box) {
  image.addEventListener("load", () => { box.style.maxWidth = `${3 * image.naturalWidth}px`; });
  return image;
}

function showDialog(dialog) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  element.append(dialog);
  dialog.showModal();
}


// A list that a click on its face opens; a choice, a click elsewhere and Escape close it.
function menu(face, entries, closed) {
  const list = node("details", { class: "menu" }, node("summary", {}, ...face), node("div", {}, ...entries));
  list.addEventListener("click", (event) => {
    if (event.target.closest("button")) list.open = false;
  });
  list.addEventListener("focusout", (event) => {
    if (!list.contains(event.relatedTarget)) list.open = false;
  });
  list.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !list.open) return;
    list.open = false;
    list.querySelector("summary").focus();
  });
  list.addEventListener("toggle", () => list.open || closed());
  return list;
}
