// Asks the app once a second, at next to no cost, whether anything has happened; only then does the page look.
const BEAT = 1000, SURELY_EVERY = 15, PATIENCE = 3;
const root = element.querySelector(".pulse-root");
let seen = null, beats = 0, failures = 0;

// The browser's tab tells how far a training is, by its title and its icon.
const icon = node("link", { rel: "icon", type: "image/svg+xml" });
let told = "";

function showShare(share) {
  const words = share === null ? "" : String(share);
  if (words === told) return;
  told = words;
  document.title = share === null ? "APT Studio" : `${share} % - APT Studio`;
  if (share === null) {
    icon.remove();
    return;
  }
  const ring = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36"><g fill="none" stroke-width="6" transform="rotate(-90 18 18)">
    <circle cx="18" cy="18" r="14" stroke="#b8d3cf"/><circle cx="18" cy="18" r="14" stroke="#0f766e" pathLength="100" stroke-dasharray="${share} 100"/></g></svg>`;
  icon.href = `data:image/svg+xml,${encodeURIComponent(ring)}`;
  document.head.append(icon); // the last one counts
}

// Who asked for it is told by the browser that a training has ended, unless they look at the page.
const bell = node("button", { type: "button", class: "link bell", onclick: askLeave });
let wasTraining = false;

async function askLeave() {
  const answer = await Notification.requestPermission();
  bell.textContent = answer === "granted" ? say("You will be told at the end") : say("The browser does not let this page tell you; allow notifications for it");
}

function offerBell(isTraining) {
  if (!("Notification" in window) || !isTraining) {
    bell.remove();
    return;
  }
  if (bell.isConnected) return;
  bell.textContent = Notification.permission === "granted" ? say("You will be told at the end") : say("Tell me at the end");
  document.querySelector(".watch-actions")?.append(bell);
}

function tell() {
  const share = document.querySelector("#progress [aria-valuenow]")?.getAttribute("aria-valuenow");
  const isTraining = document.querySelector("h1.brand small")?.dataset.job === "training";
  showShare(isTraining && share ? Math.round(share) : null);
  offerBell(isTraining);
  const hasEnded = wasTraining && !isTraining;
  wasTraining = isTraining;
  if (!hasEnded || !document.hidden || !("Notification" in window) || Notification.permission !== "granted") return;
  new Notification("APT Studio", { body: document.querySelector("#sentence p")?.textContent ?? "" });
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
  const words = failures >= PATIENCE ? say("APT Studio does not answer. Start it again; this page then goes on, with all you typed.") : "";
  if (root.textContent !== words) root.textContent = words;
}

setInterval(() => { beat(); tell(); }, BEAT);
