"use strict";
// The run page follows its run by server-sent events, or by asking again where they do not come through. Every page
// works without this script.
(() => {
  const box = document.getElementById("run");
  const text = (id, value) => { const place = document.getElementById(id); if (place && place.textContent !== value) place.textContent = value; };
  const two = (number) => String(number).padStart(2, "0");
  const span = (seconds) => {
    const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
    if (whole < 60) return `${whole} s`;
    return minutes < 60 ? `${minutes} min ${two(whole % 60)} s` : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  };

  const FAR = "The service cannot be reached just now; this page tries again. The run goes on without it.";

  function follow() {
    let began = Date.now() - 1000 * Number(document.getElementById("elapsed").dataset.seconds), lastStep = "", over = false;
    const tick = setInterval(() => { if (!deaf) text("elapsed", span((Date.now() - began) / 1000)); }, 1000);

    // what is shown is old while nothing is heard: then the page says so, and the clock stands still
    const lost = document.getElementById("lost");
    let deaf = false;
    const hear = () => { deaf = false; if (lost) lost.hidden = true; };
    const miss = (words) => { deaf = true; if (lost) { lost.textContent = words; lost.hidden = false; } };
    const gone = () => { over = true; clearInterval(tick); miss("The service does not know you any more, or you may no longer read this run. Sign in again, then load this page."); };

    const show = (state) => {
      hear();
      began = Date.now() - 1000 * state.elapsed_s;
      text("next-step", state.next_step ? state.doing : "");
      text("rounds", `${state.rounds} round${state.rounds === 1 ? "" : "s"}`);
      text("left", state.left_s ? `about ${span(state.left_s)} left, by earlier runs` : "");
      if (state.score_words) {
        const [value, ...most] = state.score_words.split(" "), small = document.createElement("span");
        small.className = "of";
        small.textContent = ` ${most.join(" ")}`;
        document.getElementById("score").replaceChildren(value, small);
      }
      const steps = document.getElementById("steps");
      steps.replaceChildren(...state.steps.map((step) => item(step.doing, step.seconds >= 1 ? span(step.seconds) : "< 1 s")));
      if (state.next_step) { const now = item(state.doing, "now"); now.className = "now"; steps.append(now); }
      if (state.next_step !== lastStep) { lastStep = state.next_step; text("announce", lastStep ? `now ${state.doing}` : `the run is ${state.status}`); }
      log();
      if (state.status !== "running" && !over) { over = true; clearInterval(tick); location.reload(); }
    };
    const item = (name, note) => {
      const line = document.createElement("li"), first = document.createElement("span"), second = document.createElement("span");
      first.textContent = name; second.textContent = note; second.className = "soft";
      line.append(first, " ", second);
      return line;
    };
    const log = async () => {
      try {
        const answer = await fetch(box.dataset.log, { headers: { Accept: "text/plain" } });
        if (!answer.ok) return;
        const place = document.getElementById("log"), value = await answer.text();
        if (!value || value === place.textContent) return;
        const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 8;
        place.textContent = value;
        if (atEnd) place.scrollTop = place.scrollHeight;
      } catch { /* the next look tries again */ }
    };
    const ask = async () => {
      try {
        const answer = await fetch(box.dataset.state, { headers: { Accept: "application/json" } });
        if (answer.ok) show(await answer.json());
        else if ([401, 403, 404].includes(answer.status)) return gone();
        else miss(FAR);
      } catch { miss(FAR); }
      if (!over) setTimeout(ask, 3000);
    };

    setInterval(log, 3000);
    if (!window.EventSource) { ask(); return; }
    let heard = false, failures = 0;
    const source = new EventSource(box.dataset.events);
    source.onopen = hear;
    source.addEventListener("run", (event) => { heard = true; failures = 0; show(JSON.parse(event.data)); });
    source.addEventListener("end", () => source.close());
    source.onerror = () => { failures += 1; if (!over && failures > 1) miss(FAR); if (!heard && failures > 2 || source.readyState === EventSource.CLOSED) { source.close(); if (!over) setTimeout(ask, 2000); } };
    setTimeout(() => { if (!heard) { source.close(); ask(); } }, 8000);
  }
  if (box && box.dataset.events) follow();

  // inside JupyterLab the pages follow its theme; a frame of another site cannot be looked at, and is none of Lab's
  let lab = null;
  try { lab = window.parent === window ? null : window.parent.document.body; } catch { /* another site */ }
  if (lab && lab.dataset.jpThemeLight) {
    const take = () => { document.documentElement.dataset.theme = lab.dataset.jpThemeLight === "true" ? "light" : "dark"; };
    new MutationObserver(take).observe(lab, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    take();
  }

  // what takes seconds says so, and a second press does nothing
  const form = document.getElementById("ask");
  if (form) form.addEventListener("submit", () => {
    form.querySelectorAll(".busy").forEach((place) => { place.hidden = false; });
    setTimeout(() => form.querySelectorAll("button").forEach((button) => { button.disabled = true; }), 0);
  });
  window.addEventListener("pageshow", () => document.querySelectorAll("#ask button").forEach((button) => { button.disabled = false; }));

  // only two runs can be compared
  const marks = [...document.querySelectorAll(".mark input")];
  const limit = () => { const full = marks.filter((one) => one.checked).length >= 2; marks.forEach((one) => { one.disabled = full && !one.checked; }); };
  marks.forEach((one) => one.addEventListener("change", limit));
  limit();
})();
