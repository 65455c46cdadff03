// Asks the app once a second, at next to no cost, whether anything has happened; only then does the page look.
const BEAT = 1000, SURELY_EVERY = 15, PATIENCE = 3;
const root = element.querySelector(".pulse-root");
let seen = null, beats = 0, failures = 0;

// The browser's tab tells how far a training is.
function tell() {
  const share = document.querySelector("#progress [aria-valuenow]")?.getAttribute("aria-valuenow");
  const isTraining = document.querySelector("h1.brand small")?.textContent === "training";
  document.title = isTraining && share ? `${share} % - APT Studio` : "APT Studio";
}

async function beat() {
  const run = document.querySelector("#sentence [data-run]")?.dataset.run ?? "";
  try {
    const answer = await fetch(`pulse?run=${encodeURIComponent(run)}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const mark = await answer.text();
    if (failures >= PATIENCE) location.reload(); // it was started again and knows nothing of this page
    failures = 0;
    if (mark !== seen || ++beats % SURELY_EVERY === 0) trigger("tick");
    seen = mark;
  } catch {
    failures += 1;
  }
  const words = failures >= PATIENCE ? "APT Studio does not answer. Start it again; this page then goes on, with all you typed." : "";
  if (root.textContent !== words) root.textContent = words;
}

setInterval(() => { beat(); tell(); }, BEAT);
