// The live picture of a part: HTML comes from Python, clicks and field values go back to it.
// In: the traits html and ticks. Out: messages {do, arg, values}, each of which Python answers by {heard: true}.

const PATIENCE_MS = 20000;
const SILENT =
  "The kernel does not answer. If it is busy, wait until its cell has ended; if it was restarted, run this cell again. " +
  "Runs go on in either case.";

const dress = (old, next) => {
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !(name === "open" && old.tagName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) === value || (name === "open" && old.tagName === "DETAILS")) continue;
    old.setAttribute(name, value);
    if (name === "value" && "value" in old) old.value = value;
  }
  if (old.type === "checkbox" && old.defaultChecked !== next.defaultChecked) old.checked = next.defaultChecked;
};

// The children of `old` become those of `next`. What fits is kept, so focus, typed text and open folds stay.
const morph = (old, next) => {
  if (old.tagName === "TEXTAREA") {
    if (old.defaultValue !== next.defaultValue) {
      old.defaultValue = next.defaultValue;
      old.value = next.defaultValue;
    }
    return;
  }
  const kept = new Map();
  for (const node of old.children) if (node.dataset?.key) kept.set(node.dataset.key, node);
  let place = old.firstChild;
  for (const node of [...next.childNodes]) {
    const key = node.dataset?.key;
    let mate = key ? kept.get(key) : place;
    if (!key && mate?.dataset?.key) mate = null;
    if (mate && mate.nodeName === node.nodeName) {
      if (mate === place) place = place.nextSibling;
      else old.insertBefore(mate, place);
      if (node.nodeType === Node.TEXT_NODE) {
        if (mate.data !== node.data) mate.data = node.data;
      } else if (node.nodeType === Node.ELEMENT_NODE) {
        dress(mate, node);
        if (!mate.dataset.tick) morph(mate, node);
        if (mate.tagName === "SELECT") choose(mate, node);
      }
    } else {
      old.insertBefore(node, place);
    }
  }
  while (place) {
    const after = place.nextSibling;
    place.remove();
    place = after;
  }
};

const choose = (old, next) => {
  const wanted = [...next.options].find((one) => one.defaultSelected)?.value ?? "";
  if (old.dataset.wanted !== wanted) {
    old.dataset.wanted = wanted;
    old.value = wanted;
  }
};

const valuesOf = (root) => {
  const found = {};
  for (const field of root.querySelectorAll("[name]")) {
    if (field.type === "checkbox") {
      found[field.name] ??= [];
      if (field.checked) found[field.name].push(field.value);
    } else {
      found[field.name] = field.value;
    }
  }
  return found;
};

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    root.className = "haystack-live";
    const style = document.createElement("style");
    style.textContent = model.get("css");
    const frame = document.createElement("div");
    frame.className = "haystack";
    frame.append(root);
    el.append(style, frame);

    const silence = document.createElement("p");
    silence.className = "problem";
    silence.setAttribute("role", "alert");
    silence.textContent = SILENT;
    let waiting = null;
    const hear = () => {
      clearTimeout(waiting);
      waiting = null;
      silence.remove();
    };
    const tell = (action, arg) => {
      waiting ??= setTimeout(() => root.before(silence), PATIENCE_MS);
      model.send({ do: action, arg: arg ?? "", values: valuesOf(root) });
    };
    const tick = () => {
      const texts = model.get("ticks");
      for (const span of root.querySelectorAll("[data-tick]")) {
        const text = texts[span.dataset.tick] ?? "";
        if (span.textContent !== text) span.textContent = text;
      }
    };
    const show = () => {
      const next = document.createElement("div");
      next.innerHTML = model.get("html");
      for (const node of next.querySelectorAll("select")) {
        node.dataset.wanted = [...node.options].find((one) => one.defaultSelected)?.value ?? "";
      }
      const log = root.querySelector(".log");
      const atEnd = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
      morph(root, next);
      const now = root.querySelector(".log");
      if (now && atEnd) now.scrollTop = now.scrollHeight;
      tick();
    };
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (!button || button.getAttribute("aria-disabled") === "true") return;
      event.preventDefault();
      tell(button.dataset.do, button.dataset.arg);
    });
    root.addEventListener("keydown", (event) => {
      event.stopPropagation(); // the notebook has shortcuts on single letters
      const field = event.target;
      if (event.key !== "Enter" || event.shiftKey || !field.dataset?.enter) return;
      event.preventDefault();
      tell(field.dataset.enter);
    });
    root.addEventListener("change", (event) => {
      tell(event.target.dataset?.change ?? "keep", event.target.value);
    });
    model.on("change:html", show);
    model.on("change:ticks", tick);
    model.on("msg:custom", hear);
    show();
    return () => {
      clearTimeout(waiting);
      model.off("msg:custom", hear);
      model.off("change:html", show);
      model.off("change:ticks", tick);
    };
  },
};
