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

