// The log of the run in view, fetched while it is looked at, and kept at its end unless somebody has scrolled up.
// value: {run, mark}; the mark changes whenever there may be more.
const root = element.querySelector(".log-root");
const text = node("pre", { class: "log", tabindex: 0, role: "log", "aria-live": "off", "aria-label": say("log of the run") });
const whole = node("a", { target: "_blank", rel: "noopener" }, say("Open the log in a tab of its own"));
root.replaceChildren(text, node("p", { class: "note" }, whole));
let isSeen = false, isAsking = false, told = "";

async function ask() {
  const { run, mark } = props.value ?? {};
  const wanted = `${run} ${mark}`;
  if (!isSeen || isAsking || !run || wanted === told) return;
  isAsking = true;
  whole.href = `log?run=${encodeURIComponent(run)}`;
  try {
    const answer = await fetch(`${whole.href}&tail=1`);
    const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
    text.textContent = answer.ok ? await answer.text() : say("The log cannot be had now.");
    if (isAtEnd) text.scrollTop = text.scrollHeight;
    told = wanted;
  } catch {
    text.textContent = say("APT Studio does not answer.");
  }
  isAsking = false;
}

new IntersectionObserver(([entry]) => { isSeen = entry.isIntersecting; ask(); }).observe(root);
watch("value", ask);
