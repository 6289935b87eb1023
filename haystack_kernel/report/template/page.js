// Sections are folded: an address inside one opens it, and paper shows all of them but the notebook.
const unfold = (place) => {
  for (let item = place; item; item = item.parentElement) if (item.tagName === "DETAILS") item.open = true;
};
const openTarget = () => {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!place) return;
  unfold(place.querySelector(":scope > details") ?? place);
  place.scrollIntoView();
};
addEventListener("hashchange", openTarget);
for (const link of document.querySelectorAll("a[href^='#']")) link.addEventListener("click", () => setTimeout(openTarget));
openTarget();
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("main details:not([open])")].filter((item) => !item.closest("#notebook"));
  for (const item of opened) item.open = true;
});
addEventListener("afterprint", () => {
  for (const item of opened) item.open = false;
  opened = [];
});
const all = document.getElementById("unfold");
if (all) {
  const button = document.createElement("button");
  button.type = "button";
  const folds = [...document.querySelectorAll("main > section > details")];
  const name = () => { button.textContent = folds.every((item) => item.open) ? "Fold all sections" : "Unfold all sections"; };
  button.addEventListener("click", () => {
    const open = !folds.every((item) => item.open);
    for (const item of folds) item.open = open;
    name();
  });
  for (const item of folds) item.addEventListener("toggle", name);
  name();
  all.append(button);
}
// In a frame without rights of its own (a service shows reports so) the clipboard is reached by selecting a text.
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "away";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
};
for (const place of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  const said = document.createElement("span");
  button.type = "button";
  button.textContent = place.dataset.label;
  said.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    const done = await copy(document.getElementById(place.dataset.copy).textContent);
    said.textContent = done ? "copied" : "select the text below to copy it";
    if (!done) unfold(document.getElementById(place.dataset.copy));
  });
  place.append(button, said);
}
