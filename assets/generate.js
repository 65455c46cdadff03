// What the Generate button does beyond its click: a key presses it, and a press while a choice is on its way waits for that.
// And text boxes keep their words in sight when the window gets narrower: Gradio measures one only when it hears of words.
() => {
  const LONGEST_WAIT = 5000;
  const button = () => document.querySelector("#generate");
  const underWay = []; // timers: an answer may never come
  let wanted = false;

  function settle() {
    clearTimeout(underWay.shift());
    document.querySelector("#compare input")?.setAttribute("placeholder", say("add one")); // it is drawn when the tab is opened
    if (underWay.length || !wanted) return;
    wanted = false;
    setTimeout(() => button()?.click(), 50); // once the page shows what was chosen
  }

  document.addEventListener("choice-begins", () => underWay.push(setTimeout(settle, LONGEST_WAIT)));
  document.addEventListener("choice-ends", settle);
  document.addEventListener("click", (event) => {
    if (!underWay.length || !event.target.closest?.("#generate")) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    wanted = true;
  }, true);
  document.addEventListener("keydown", (event) => {
    const pressed = button();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && pressed?.offsetParent && !pressed.disabled) pressed.click();
  });
  window.addEventListener("resize", () => {
    for (const box of document.querySelectorAll("textarea")) if (box.offsetParent) box.dispatchEvent(new Event("input"));
  });
}
