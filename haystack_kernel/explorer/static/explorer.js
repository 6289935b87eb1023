// Pictures of an explorer. The kernel holds what is chosen; this file draws, asks, and shows the answers.
// Every text of the run is set as text, never as markup.

const SHAPES = { prompt: "^", control: "s", query: "o", predicted: "D" };
const RAMP = ["#b9c6d6", "#7fa3c4", "#4a86b8", "#2a6f9e", "#7a4fa3", "#a83f7d", "#c9354d", "#d55e00"];
const TYPES = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#8C8C8C", "#B58900", "#7A4FA3", "#5B8C5A"];
const GREY = "#8c8c8c";
const UP = "#D55E00";
const DOWN = "#0072B2";
const CHOSEN = "#009E73";
const MARKED = "#E69F00";
const MANY = 20000; // cells above which the map is drawn pixel by pixel
const ABSENT = 255; // byte of a cell whose data do not hold the gene
const PAGE = 100; // rows of the gene table added at a time
const ROW = 22; // height of a violin in pixels
const SILENCE = 15000; // milliseconds without an answer after which the view says so

const tag = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
};
const bytes = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
const number = (value, digits = 2) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value !== 0 && Math.abs(value) < 10 ** -digits) return value.toExponential(1);
  return value.toFixed(digits);
};
const counted = (value) => value.toLocaleString("en-US");
const extent = (values, pad = 0.04) => {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  const room = (high - low || 1) * pad;
  return [low - room, high + room];
};
const ticks = ([low, high]) => {
  let step = 10 ** Math.floor(Math.log10((high - low) / 2));
  for (const factor of [2, 2.5, 2]) if ((high - low) / step > 5) step *= factor;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
};
const outline = (path, shape, x, y, r) => {
  if (shape === "o") {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 2 * Math.PI);
    return;
  }
  const corners = {
    "^": [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]],
    v: [[0, 1.2], [1.1, -0.9], [-1.1, -0.9]],
    s: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    D: [[0, -1.3], [1.2, 0], [0, 1.3], [-1.2, 0]],
  }[shape];
  corners.forEach(([dx, dy], index) => (index ? path.lineTo(x + dx * r, y + dy * r) : path.moveTo(x + dx * r, y + dy * r)));
  path.closePath();
};
const mark = (shape, colour) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-1.4 -1.4 2.8 2.8");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", { o: "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z", "^": "M0-1.2L1.1.9H-1.1z", v: "M0 1.2L1.1-.9H-1.1z", s: "M-.9-.9H.9V.9H-.9z", D: "M0-1.3L1.2 0L0 1.3L-1.2 0z" }[shape]);
  path.setAttribute("fill", colour);
  svg.append(path);
  return svg;
};
const rgb = (text) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = text;
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
};

// A canvas of a given height that fills its panel, sharp on every screen.
class Surface {
  constructor(height, draw, { overlay = false } = {}) {
    this.height = height;
    this.draw = draw;
    this.canvas = tag("canvas", { role: "img" });
    this.over = overlay ? tag("canvas", { "aria-hidden": "true" }) : null;
    this.tip = tag("div", { class: "hx-tip", hidden: true, "aria-hidden": "true" });
    this.box = tag("div", { class: "hx-canvas" }, this.canvas, this.over, this.tip);
    this.width = 0;
  }

  paint() {
    this.width = Math.max(Math.round(this.box.clientWidth), 120);
    this.ratio = window.devicePixelRatio || 1;
    const context = this.clear(this.canvas);
    const style = getComputedStyle(this.box);
    this.ink = style.color;
    this.paper = getComputedStyle(this.box.closest(".hx") ?? this.box).backgroundColor;
    context.font = `11px ${style.fontFamily}`;
    this.draw(context, this);
  }

  clear(canvas) {
    const [width, height] = [Math.round(this.width * this.ratio), Math.round(this.height * this.ratio)];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      canvas.style.height = `${this.height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    return context;
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  say(text, x, y) {
    this.tip.hidden = !text;
    if (!text) return;
    this.tip.textContent = text;
    const room = this.width - this.tip.offsetWidth - 4;
    this.tip.style.left = `${Math.max(0, Math.min(x + 12, room))}px`;
    this.tip.style.top = `${y > this.height / 2 ? y - this.tip.offsetHeight - 10 : y + 14}px`;
  }

  describe(text) {
    this.canvas.setAttribute("aria-label", text);
  }
}

const axes = (context, { ink, width, height }, { x, y, xName, yName, left = 46, bottom = 34 }) => {
  const place = {
    x: (value) => left + ((value - x[0]) / (x[1] - x[0])) * (width - left - 10),
    y: (value) => height - bottom - ((value - y[0]) / (y[1] - y[0])) * (height - bottom - 10),
  };
  context.strokeStyle = ink;
  context.fillStyle = ink;
  context.globalAlpha = 0.5;
  context.beginPath();
  context.moveTo(left, 10);
  context.lineTo(left, height - bottom);
  context.lineTo(width - 10, height - bottom);
  context.stroke();
  context.globalAlpha = 1;
  context.textAlign = "center";
  for (const value of ticks(x)) context.fillText(String(value), place.x(value), height - bottom + 14);
  context.fillText(xName, (left + width - 10) / 2, height - 5);
  context.textAlign = "right";
  if (yName) for (const value of ticks(y)) context.fillText(String(value), left - 5, place.y(value) + 4);
  if (yName) {
    context.save();
    context.translate(11, (height - bottom + 10) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(yName, 0, 0);
    context.restore();
  }
  return place;
};

class View {
  constructor(model, root) {
    this.model = model;
    this.id = Math.random().toString(36).slice(2);
    this.serial = 0;
    this.base = null;
    this.mask = null;
    this.shift = null;
    this.signs = null;
    this.effect = null;
    this.zoom = { k: 1, x: 0, y: 0 };
    this.tool = window.matchMedia("(pointer: coarse)").matches ? "move" : "lasso";
    this.sort = { column: "delta", down: true };
    this.rows = PAGE;
    this.awaited = null;
    this.build(root);
    this.hear = (content, buffers) => this.receive(content, buffers ?? []);
    model.on("msg:custom", this.hear);
    this.watch();
    this.ask("hello");
  }

  // --- the page part ---

  build(root) {
    const press = (text, onclick, pressed) => tag("button", { type: "button", text, onclick, "aria-pressed": pressed === undefined ? null : String(pressed) });
    this.status = tag("div", { class: "hx-status sr-only", role: "status" });
    this.problem = tag("div", { class: "hx-problem", role: "alert", hidden: true });
    this.title = tag("div", { class: "hx-title", text: "Waiting for the kernel…" });
    this.sides = tag("select", { onchange: () => this.ask("side", this.sides.value) });
    this.pathways = tag("select", { onchange: () => this.ask("pathway", this.pathways.value) });
    this.notes = tag("div", { class: "hx-soft" });
    const bar = tag("div", { class: "hx-bar" }, this.title, tag("label", {}, "Mark pathway ", this.pathways), tag("label", {}, "Compare with ", this.sides));

    this.map = new Surface(320, (context) => this.drawMap(context), { overlay: true });
    this.colour = tag("select", { onchange: () => this.paint() }, ...["role", "gene", "cell type"].map((name) => tag("option", { text: name })));
    this.tools = {
      lasso: press("Lasso", () => this.use("lasso"), this.tool === "lasso"),
      move: press("Move", () => this.use("move"), this.tool === "move"),
    };
    this.clearing = press("Clear selection", () => this.select(null));
    this.clearing.hidden = true;
    this.legend = tag("ul", { class: "hx-legend" });
    this.sample = tag("div", { class: "hx-soft" });
    const around = [["+", 1.5, "Zoom in"], ["−", 1 / 1.5, "Zoom out"]].map(([text, factor, name]) => {
      const made = press(text, () => this.rescale(factor));
      made.setAttribute("aria-label", name);
      return made;
    });
    const whole = press("Whole map", () => this.rescale(0));
    const mapPanel = this.panel("Cells", [tag("label", {}, "Colour by ", this.colour), this.tools.lasso, this.tools.move, ...around, whole], this.map.box, tag("div", { class: "hx-head" }, this.legend, this.clearing), this.sample);
    this.pointer();
    this.use(this.tool);

    this.volcano = new Surface(320, (context) => this.drawVolcano(context));
    this.picking(this.volcano);
    const volcanoPanel = this.panel("Volcano", [], this.volcano.box, tag("ul", { class: "hx-legend" }, ...[["^", UP, "called, rises"], ["v", DOWN, "called, falls"], ["o", GREY, "not called"], ["D", CHOSEN, "chosen"], ["D", MARKED, "in the pathway"]].map(([shape, colour, text]) => tag("li", {}, mark(shape, colour), text))));

    this.violins = new Surface(120, (context) => this.drawViolins(context));
    this.dots = new Surface(120, (context) => this.drawDots(context));
    this.dots.box.hidden = true;
    this.shapes = {
      violins: press("Violins", () => this.shape("violins"), true),
      dots: press("Dots", () => this.shape("dots"), false),
    };
    this.groups = tag("tbody");
    this.groupsTable = this.table("Expression of the chosen gene by role and cell type", ["role", "cell type", "cells", "counted", "mean", "median", "share detected"], this.groups, 2);
    this.violinTitle = tag("div", { class: "hx-name", text: "Expression" });
    this.tables = tag("details", {}, tag("summary", { text: "As a table; select cells by role and type" }), tag("div", { class: "hx-scroll", tabindex: "0", role: "group", "aria-label": "Expression by role and cell type" }, this.groupsTable));
    const violinPanel = tag("div", { class: "hx-panel" }, tag("div", { class: "hx-head" }, this.violinTitle, this.shapes.violins, this.shapes.dots), this.violins.box, this.dots.box, this.tables);

    this.beside = new Surface(320, (context) => this.drawBeside(context));
    this.picking(this.beside);
    this.besideTitle = tag("div", { class: "hx-name" });
    this.besideWords = tag("p");
    this.besidePanel = tag("div", { class: "hx-panel", hidden: true }, tag("div", { class: "hx-head" }, this.besideTitle), this.beside.box, this.besideWords);

    this.filter = tag("input", { type: "search", placeholder: "name", oninput: () => this.refill(), onkeydown: (event) => this.enter(event) });
    this.only = tag("input", { type: "checkbox", onchange: () => this.refill() });
    this.onlyLabel = tag("label", { hidden: true }, this.only, "marked genes only");
    this.genes = tag("tbody");
    this.headings = tag("tr");
    this.genesTable = tag("table", {}, tag("caption", { class: "sr-only", text: "Genes of the run" }), tag("thead", {}, this.headings), this.genes);
    this.genes.addEventListener("keydown", (event) => this.walk(event));
    this.more = press(`Show ${PAGE} more`, () => {
      this.rows += PAGE;
      this.fill();
    });
    this.more.classList.add("hx-more");
    this.shown = tag("span", { class: "hx-soft" });
    const genePanel = this.panel("Genes", [tag("label", {}, "Find ", this.filter), this.onlyLabel], tag("div", { class: "hx-scroll", role: "group", "aria-label": "Table of genes", tabindex: "0" }, this.genesTable), tag("div", { class: "hx-head" }, this.shown, this.more));

    this.evidenceTitle = tag("div", { class: "hx-name", text: "Evidence" });
    this.evidence = tag("div");
    const evidencePanel = tag("div", { class: "hx-panel" }, tag("div", { class: "hx-head" }, this.evidenceTitle), tag("div", { class: "hx-scroll", style: "padding: 6px 10px", role: "group", "aria-label": "Evidence for the gene", tabindex: "0" }, this.evidence));

    this.pathwayRows = tag("tbody");
    const pathwayPanel = this.panel("Pathways", [], tag("div", { class: "hx-scroll", role: "group", "aria-label": "Table of pathways", tabindex: "0" }, this.table("Pathways of the run", ["pathway", "expected", "score", "statistic", "p (self-contained)", "p (competitive)", "genes"], this.pathwayRows, 2)));

    const style = tag("style");
    const twin = this.model.get("twin") ?? "";
    if (/^[\w-]+$/.test(twin)) style.textContent = `.${twin},.jp-OutputArea-child:has(.${twin}){display:none}`;
    for (const panel of [mapPanel, volcanoPanel]) panel.classList.add("hx-half"); // side by side where the tables are not
    const columns = [[mapPanel, violinPanel, evidencePanel], [volcanoPanel, this.besidePanel, genePanel, pathwayPanel]];
    const grid = tag("div", { class: "hx-grid" }, ...columns.map((panels) => tag("div", { class: "hx-column" }, ...panels)));
    this.root = tag("div", { class: "hx", role: "group", "aria-label": "Explorer", "data-state": "waiting" }, style, bar, this.problem, grid, this.notes, this.status);
    this.surfaces = [this.map, this.volcano, this.violins, this.dots, this.beside];
    root.append(this.root);
  }

  panel(name, controls, ...children) {
    return tag("div", { class: "hx-panel", role: "group", "aria-label": name }, tag("div", { class: "hx-head" }, tag("div", { class: "hx-name", text: name }), ...controls), ...children);
  }

  table(caption, columns, body, firstNumber) {
    const head = columns.map((text, place) => tag("th", { scope: "col", text, class: place >= firstNumber ? "hx-number" : null }));
    return tag("table", { class: "hx-named" }, tag("caption", { class: "sr-only", text: caption }), tag("thead", {}, tag("tr", {}, ...head)), body);
  }

  watch() {
    this.sizes = new ResizeObserver(() => this.paint());
    this.sizes.observe(this.root);
    this.themes = new MutationObserver(() => this.paint());
    for (const target of [document.documentElement, document.body]) this.themes.observe(target, { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-light", "data-jp-theme-name", "data-vscode-theme-kind"] });
    this.scheme = window.matchMedia("(prefers-color-scheme: dark)");
    this.onScheme = () => this.paint();
    this.scheme.addEventListener("change", this.onScheme);
  }

  close() {
    this.closed = true;
    clearTimeout(this.awaited);
    this.model.off("msg:custom", this.hear);
    this.sizes.disconnect();
    this.themes.disconnect();
    this.scheme.removeEventListener("change", this.onScheme);
  }

  // --- the conversation ---

  ask(kind, value = null, further = {}, buffers = []) {
    clearTimeout(this.awaited);
    this.awaited = setTimeout(() => {
      if (!this.closed) this.fail("The kernel does not answer. It may be busy, or stopped: run the cell again to explore further.");
    }, SILENCE);
    this.serial += 1;
    this.model.send({ kind, value, view: this.id, serial: this.serial, ...further }, undefined, buffers);
  }

  fail(text) {
    this.problem.hidden = !text;
    this.problem.textContent = text;
  }

  receive(content, buffers) {
    clearTimeout(this.awaited);
    this.fail(content.kind === "problem" ? content.message : "");
    if (content.kind === "base") this.setBase(content, buffers.map(bytes));
    if (!this.base) return;
    if (content.kind === "side") this.setSide(content, buffers.map(bytes));
    if (content.kind === "gene") this.setGene(content, bytes(buffers[0]));
    if (content.kind === "pathway") this.setPathway(content, bytes(buffers[0]));
    if (content.kind === "selection") this.setSelection(content, buffers.map(bytes));
    if (content.kind === "problem") {
      this.sides.value = this.side ?? "";
      this.pathways.value = this.pathway ?? "";
    }
    if (content.table) this.describe(content);
    this.paint();
  }

  setBase(content, [x, y, group, follows, log2fc, delta, doubt, flags, expected]) {
    this.base = content;
    this.x = new Float32Array(x);
    this.y = new Float32Array(y);
    this.mapGroup = new Uint16Array(group);
    this.mapFollows = new Int32Array(follows);
    this.n = this.x.length;
    this.group = this.mapGroup;
    this.follows = this.mapFollows;
    this.labels = content.groups;
    this.mapLabels = content.groups;
    this.log2fc = new Float32Array(log2fc);
    this.delta = new Float32Array(delta);
    this.doubt = new Float64Array(doubt); // float32 ends at 1e-38
    this.flags = new Uint8Array(flags);
    this.expected = new Int8Array(expected);
    // values too small for a number are drawn just above the others, so that they do not press those to the axis
    const finite = Array.from(this.doubt, (value) => (value > 1e-300 ? -Math.log10(value) : NaN));
    const top = Math.max(2, extent(finite, 0)[1]) * 1.15;
    this.height = Float32Array.from(this.doubt, (value, gene) => (value <= 1e-300 ? top : finite[gene]));
    this.lower = content.genes.map((gene) => gene.toLowerCase());
    this.bounds = { x: extent(this.x), y: extent(this.y) };
    this.hasMap = this.x.some((value) => !Number.isNaN(value));
    this.types = [...new Set(content.groups.map((one) => one.type))];
    this.title.textContent = content.question;
    this.root.setAttribute("aria-label", `Explorer of run ${content.run}`);
    this.sample.textContent = content.sample;
    this.notes.replaceChildren(...content.notes.map((text) => tag("p", { text })));
    this.sides.replaceChildren(tag("option", { value: "", text: "nothing" }), ...content.sides.map((one) => tag("option", { value: one.key, text: one.label })));
    this.pathways.replaceChildren(tag("option", { value: "", text: "none" }), ...content.pathways.map((one) => tag("option", { value: one.name, text: one.name })));
    this.fillPathways();
    this.root.dataset.state = "ready";
  }

  setGene(content, values) {
    const isNew = content.gene !== this.gene;
    this.gene = content.gene;
    this.chosen = this.base.genes.indexOf(content.gene);
    this.values = new Uint8Array(values);
    this.largest = content.largest;
    this.violinTitle.textContent = `${content.gene} by role and cell type`;
    this.showEvidence(content.evidence);
    if (isNew) this.tell(`Gene ${content.gene}. ${content.evidence.facts[0] ?? ""}`);
    for (const row of this.genes.rows) this.choose(row);
    if (isNew && this.coloured) this.colour.value = "gene";
    this.coloured = true; // the first gene is the run's; those chosen later colour the map
  }

  setPathway(content, signs) {
    this.pathway = content.pathway;
    this.pathways.value = content.pathway;
    this.signs = content.pathway ? new Int8Array(signs) : null;
    this.onlyLabel.hidden = !content.pathway;
    if (!content.pathway) this.only.checked = false;
    for (const row of this.pathwayRows.rows) {
      const isOn = row.dataset.name === content.pathway;
      row.classList.toggle("hx-chosen", isOn);
      row.querySelector("button").setAttribute("aria-pressed", String(isOn));
    }
    this.tell(content.pathway ? `${content.n_genes} genes of ${content.pathway} are marked.` : "No pathway is marked.");
    this.fill();
  }

  setSelection(content, [bits, shift]) {
    if (content.view === this.id && content.serial < this.serial) return; // an answer to an earlier lasso
    const packed = bits ? new Uint8Array(bits) : null;
    this.mask = packed ? Uint8Array.from({ length: this.n }, (_, index) => (packed[index >> 3] >> (index & 7)) & 1) : null;
    this.shift = shift ? new Float32Array(shift) : null;
    this.nSelected = content.n;
    this.clearing.hidden = !this.mask;
    this.sort = { column: this.shift ? "shift" : "delta", down: true };
    this.tell(content.n ? `${counted(content.n)} cells selected.` : "All cells count.");
    this.refill();
    this.root.dataset.selected = content.n;
  }

  setSide(content, [effect, group, follows]) {
    this.side = content.key;
    this.sides.value = content.key;
    this.besidePanel.hidden = !content.key;
    this.effect = effect ? new Float32Array(effect) : null;
    const join = (Type, own, more) => {
      const both = new Type(own.length + (more?.length ?? 0));
      both.set(own);
      if (more) both.set(more, own.length);
      return both;
    };
    this.group = join(Uint16Array, this.mapGroup, group ? new Uint16Array(group) : null);
    this.follows = join(Int32Array, this.mapFollows, follows ? new Int32Array(follows) : null);
    this.labels = content.groups ?? this.mapLabels;
    this.values = null; // the gene follows
    this.sideLabel = content.label ?? "";
    this.besideTitle.textContent = content.key ? `Prediction and ${content.label}` : "";
    this.besideWords.textContent = content.key ? `${content.words} ${content.note}` : "";
    this.tell(content.key ? content.words : "Nothing is compared.");
    if (this.sort.column === "effect" && !content.key) this.sort = { column: "delta", down: true };
    this.fill();
  }

  describe(content) {
    this.rowsOfGroups = content.table;
    this.dotValues = content.dots;
    this.fillGroups();
  }

  tell(text) {
    this.status.textContent = text;
  }

  // --- which cells count ---

  counts(index) {
    if (!this.mask) return true;
    const leader = this.follows[index];
    return leader < 0 || this.mask[leader] === 1;
  }

  select(mask) {
    this.mask = mask; // shown at once; the table follows with the answer
    this.paint();
    if (!mask) {
      this.ask("select");
      return;
    }
    const packed = new Uint8Array(Math.ceil(this.n / 8));
    for (let index = 0; index < this.n; index += 1) if (mask[index]) packed[index >> 3] |= 1 << (index & 7);
    this.ask("select", null, {}, [packed.buffer]);
  }

  // --- the map ---

  use(tool) {
    this.tool = tool;
    for (const [name, button] of Object.entries(this.tools)) button.setAttribute("aria-pressed", String(name === tool));
    this.map.over.className = tool === "lasso" ? "hx-lasso" : "hx-move";
  }

  rescale(factor) {
    if (!factor) this.zoom = { k: 1, x: 0, y: 0 };
    else {
      const [cx, cy] = [this.map.width / 2, this.map.height / 2];
      this.zoom = { k: this.zoom.k * factor, x: cx - (cx - this.zoom.x) * factor, y: cy - (cy - this.zoom.y) * factor };
    }
    this.paint();
  }

  locate() {
    const { width, height } = this.map;
    const { k, x: right, y: down } = this.zoom;
    const [x0, x1] = this.bounds.x;
    const [y0, y1] = this.bounds.y;
    const px = new Float32Array(this.n);
    const py = new Float32Array(this.n);
    for (let index = 0; index < this.n; index += 1) {
      px[index] = ((this.x[index] - x0) / (x1 - x0)) * width * k + right;
      py[index] = (1 - (this.y[index] - y0) / (y1 - y0)) * height * k + down;
    }
    return [px, py];
  }

  colours() {
    const by = this.colour.value;
    if (by === "gene" && this.values) {
      const step = (value) => (value === 0 || value === ABSENT ? -1 : Math.min(Math.floor((value / 254) * RAMP.length), RAMP.length - 1));
      const key = new Int16Array(this.n);
      for (let index = 0; index < this.n; index += 1) key[index] = step(this.values[index]) + 1;
      return [key, [GREY, ...RAMP]];
    }
    const key = new Int16Array(this.n);
    if (by === "cell type") {
      const place = this.mapLabels.map((one) => this.types.indexOf(one.type));
      for (let index = 0; index < this.n; index += 1) key[index] = place[this.mapGroup[index]];
      return [key, this.types.map((_, place) => TYPES[place % TYPES.length])];
    }
    const roles = [...new Set(this.mapLabels.map((one) => one.role))];
    const place = this.mapLabels.map((one) => roles.indexOf(one.role));
    for (let index = 0; index < this.n; index += 1) key[index] = place[this.mapGroup[index]];
    return [key, roles.map((role) => this.base.colours[role] ?? GREY)];
  }

  drawMap(context) {
    if (!this.base) return;
    const { width, height, ink } = this.map;
    if (!this.hasMap) {
      context.fillStyle = ink;
      context.textAlign = "center";
      context.fillText("No map before the run is published", width / 2, height / 2);
      this.map.describe("No map before the run is published.");
      return;
    }
    [this.px, this.py] = this.locate();
    const [key, palette] = this.colours();
    if (this.n > MANY) this.drawPixels(context, key, palette);
    else this.drawMarks(context, key, palette);
    this.fillLegend(palette);
    const selected = this.mask ? `; ${counted(this.nSelected ?? 0)} selected` : "";
    this.map.describe(`Map of ${counted(this.n)} cells coloured by ${this.colour.value}${selected}. Select cells by role and type in the table of the expression panel.`);
  }

  drawMarks(context, key, palette) {
    const isGene = this.colour.value === "gene";
    const paths = new Map(); // of one shape, colour and state each
    for (let index = 0; index < this.n; index += 1) {
      if (Number.isNaN(this.px[index])) continue;
      const shape = SHAPES[this.mapLabels[this.mapGroup[index]].role] ?? "o";
      const isOn = !this.mask || this.mask[index] === 1;
      const id = `${isOn ? 1 : 0}${String(key[index]).padStart(4, "0")}${shape}`;
      if (!paths.has(id)) paths.set(id, { path: new Path2D(), colour: palette[key[index]], isOn, isZero: isGene && key[index] === 0 });
      outline(paths.get(id).path, shape, this.px[index], this.py[index], 2.6);
    }
    for (const id of [...paths.keys()].sort()) {
      const { path, colour, isOn, isZero } = paths.get(id);
      context.globalAlpha = (isOn ? 0.8 : 0.16) * (isZero ? 0.4 : 1);
      context.fillStyle = colour;
      context.fill(path);
    }
    context.globalAlpha = 1;
  }

  drawPixels(context, key, palette) {
    const [width, height] = [this.map.canvas.width, this.map.canvas.height];
    const image = context.createImageData(width, height); // the canvas was just cleared: reading it back is slow
    const pixels = new Uint32Array(image.data.buffer);
    const packed = palette.map((text) => {
      const [r, g, b] = rgb(text);
      return [(255 << 24) | (b << 16) | (g << 8) | r, (38 << 24) | (b << 16) | (g << 8) | r];
    });
    const size = Math.max(Math.round(1.5 * this.map.ratio), 1);
    for (const state of [1, 0]) { // the faded ones first
      for (let index = 0; index < this.n; index += 1) {
        const isOff = this.mask && this.mask[index] === 0 ? 1 : 0;
        if (isOff !== state) continue;
        const left = Math.round(this.px[index] * this.map.ratio);
        const top = Math.round(this.py[index] * this.map.ratio);
        if (!(left >= 0 && top >= 0 && left + size < width && top + size < height)) continue;
        for (let y = top; y < top + size; y += 1) for (let x = left; x < left + size; x += 1) pixels[y * width + x] = packed[key[index]][isOff];
      }
    }
    context.putImageData(image, 0, 0);
  }

  fillLegend(palette) {
    const by = this.colour.value;
    if (by === "gene") {
      const ramp = tag("span", { class: "hx-ramp" });
      ramp.style.background = `linear-gradient(to right, ${RAMP.join(",")})`;
      this.legend.replaceChildren(tag("li", {}, mark("s", GREY), "0"), tag("li", {}, ramp, `up to ${number(this.largest, 1)}, log1p(CP10k) of ${this.gene}`));
      return;
    }
    const names = by === "role" ? [...new Set(this.mapLabels.map((one) => one.role))] : this.types;
    const onMap = new Set();
    for (let index = 0; index < this.n; index += 1) if (!Number.isNaN(this.x[index])) onMap.add(this.mapGroup[index]);
    const used = new Set([...onMap].map((group) => this.mapLabels[group][by === "role" ? "role" : "type"]));
    this.legend.replaceChildren(...names.map((name, place) => (used.has(name) ? tag("li", {}, mark(by === "role" ? SHAPES[name] ?? "o" : "o", palette[place]), name || "unknown type") : "")));
  }

  pointer() {
    const over = this.map.over;
    let path = null;
    let from = null;
    const drawPath = () => {
      const context = this.map.clear(over);
      if (!path) return;
      context.strokeStyle = this.map.ink;
      context.setLineDash([4, 3]);
      context.beginPath();
      path.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.stroke();
      context.globalAlpha = 0.08;
      context.fillStyle = this.map.ink;
      context.fill();
    };
    over.addEventListener("pointerdown", (event) => {
      if (!this.base || event.button !== 0) return;
      over.setPointerCapture(event.pointerId);
      from = this.map.at(event);
      if (this.tool === "lasso") path = [from];
      event.preventDefault();
    });
    over.addEventListener("pointermove", (event) => {
      const here = this.map.at(event);
      if (!from) {
        this.hover(here);
        return;
      }
      this.map.say("");
      if (path) {
        const [x, y] = path[path.length - 1];
        if (Math.hypot(here[0] - x, here[1] - y) < 3) return;
        path.push(here);
        drawPath();
      } else {
        this.zoom.x += here[0] - from[0];
        this.zoom.y += here[1] - from[1];
        from = here;
        this.paint();
      }
    });
    const end = (event) => {
      const [drawn, add] = [path, event.shiftKey];
      path = null;
      from = null;
      drawPath();
      if (drawn && drawn.length > 4 && event.type === "pointerup") this.lasso(drawn, add);
    };
    over.addEventListener("pointerup", end);
    over.addEventListener("pointercancel", end);
    over.addEventListener("pointerleave", () => this.map.say(""));
    over.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the notebook
        event.preventDefault();
        this.rescale(event.deltaY < 0 ? 1.2 : 1 / 1.2);
      },
      { passive: false },
    );
    this.map.box.addEventListener("keydown", (event) => event.key === "Escape" && this.mask && this.select(null));
  }

  lasso(polygon, add) {
    const xs = polygon.map(([x]) => x);
    const ys = polygon.map(([, y]) => y);
    const box = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const mask = add && this.mask ? this.mask.slice() : new Uint8Array(this.n);
    let n = 0;
    for (let index = 0; index < this.n; index += 1) {
      const x = this.px[index];
      const y = this.py[index];
      if (!(x >= box[0] && x <= box[1] && y >= box[2] && y <= box[3])) continue;
      let inside = false;
      for (let one = 0, two = xs.length - 1; one < xs.length; two = one, one += 1) {
        if (ys[one] > y !== ys[two] > y && x < ((xs[two] - xs[one]) * (y - ys[one])) / (ys[two] - ys[one]) + xs[one]) inside = !inside;
      }
      if (inside) mask[index] = 1;
    }
    for (const value of mask) n += value;
    this.nSelected = n;
    this.select(n ? mask : null);
  }

  hover([x, y]) {
    if (!this.px) return;
    let found = -1;
    let nearest = 64;
    for (let index = 0; index < this.n; index += 1) {
      const distance = (this.px[index] - x) ** 2 + (this.py[index] - y) ** 2;
      if (distance < nearest) [found, nearest] = [index, distance];
    }
    if (found < 0) {
      this.map.say("");
      return;
    }
    const { role, type } = this.mapLabels[this.mapGroup[found]];
    const value = this.values && this.values[found] !== ABSENT ? `; ${this.gene} ${number((this.values[found] / 254) * this.largest)}` : "";
    this.map.say(`${role}: ${type || "unknown type"}${value}`, x, y);
  }

  // --- genes in pictures ---

  drawGenes(context, surface, xs, ys, place) {
    const layers = [[], [], [], []]; // not called, falls, rises, marked
    surface.points = [];
    for (let gene = 0; gene < xs.length; gene += 1) {
      if (!(this.flags[gene] & 1) || !Number.isFinite(xs[gene]) || !Number.isFinite(ys[gene])) continue;
      const at = [place.x(xs[gene]), place.y(ys[gene]), gene];
      surface.points.push(at);
      layers[!(this.flags[gene] & 2) ? 0 : this.log2fc[gene] < 0 ? 1 : 2].push(at);
      if (this.signs && this.signs[gene]) layers[3].push(at);
    }
    [[GREY, "o", 2, 0.5], [DOWN, "v", 3, 0.8], [UP, "^", 3, 0.8], [MARKED, "D", 3.6, 1]].forEach(([colour, shape, size, alpha], layer) => {
      const path = new Path2D();
      for (const [x, y] of layers[layer]) outline(path, shape, x, y, size);
      context.globalAlpha = alpha;
      context.fillStyle = colour;
      context.fill(path);
      if (layer !== 3) return;
      context.strokeStyle = surface.ink;
      context.lineWidth = 0.7;
      context.stroke(path);
    });
    context.globalAlpha = 1;
    const named = surface.points.find(([, , gene]) => gene === this.chosen);
    const strongest = [...surface.points].filter(([, , gene]) => this.flags[gene] & 2 || (this.signs && this.signs[gene])).sort((a, b) => Math.abs(this.delta[b[2]]) - Math.abs(this.delta[a[2]]));
    const wanted = this.signs ? strongest.filter(([, , gene]) => this.signs[gene]) : strongest;
    this.name(context, surface, named ? [named, ...wanted.slice(0, 10)] : wanted.slice(0, 10));
  }

  name(context, surface, points) {
    const taken = [];
    context.textAlign = "left";
    points.forEach(([x, y, gene], index) => {
      const isChosen = gene === this.chosen;
      if (isChosen && index > 0) return;
      const text = this.base.genes[gene].slice(0, 18);
      const width = context.measureText(text).width * (isChosen ? 1.1 : 1);
      const left = x + 7 + width > surface.width ? x - 7 - width : x + 7;
      const box = [left - 2, y - 8, left + width + 2, y + 7];
      if (box[0] < 0 || box[1] < 0 || (!isChosen && taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1]))) return;
      taken.push(box);
      if (isChosen) {
        const path = new Path2D();
        outline(path, "D", x, y, 5);
        context.fillStyle = CHOSEN;
        context.fill(path);
        context.strokeStyle = surface.ink;
        context.stroke(path);
      }
      context.fillStyle = surface.ink;
      const font = context.font;
      if (isChosen) context.font = `bold ${font}`;
      context.strokeStyle = surface.paper;
      context.lineWidth = 3;
      context.strokeText(text, left, y + 4);
      context.lineWidth = 1;
      context.fillText(text, left, y + 4);
      context.font = font;
    });
  }

  drawVolcano(context) {
    if (!this.base) return;
    const tested = this.log2fc.filter((_, gene) => this.flags[gene] & 1);
    const x = extent([...tested, -1, 1], 0.12);
    const heights = this.height.filter((value) => Number.isFinite(value));
    const y = [0, Math.max(2, extent(heights, 0)[1]) * 1.06];
    const place = axes(context, this.volcano, { x, y, xName: "log2 fold change, predicted over control", yName: this.base.doubt.axis });
    this.drawGenes(context, this.volcano, this.log2fc, this.height, place);
    let [rises, falls] = [0, 0];
    this.flags.forEach((flag, gene) => {
      if (flag & 2 && this.log2fc[gene] > 0) rises += 1;
      if (flag & 2 && this.log2fc[gene] < 0) falls += 1;
    });
    this.volcano.describe(`Volcano plot of ${counted(tested.length)} tested genes: ${rises} rise, ${falls} fall. Chosen: ${this.gene ?? "none"}. Choose genes in the table.`);
  }

  drawBeside(context) {
    if (!this.base || !this.effect) return;
    const both = [];
    for (let gene = 0; gene < this.delta.length; gene += 1) if (this.flags[gene] & 1) both.push(this.delta[gene], this.effect[gene]);
    const range = extent(both, 0.1);
    const name = this.sideLabel.length > 44 ? `${this.sideLabel.slice(0, 43)}…` : this.sideLabel;
    const place = axes(context, this.beside, { x: range, y: range, xName: "predicted change, mean log1p", yName: name });
    context.strokeStyle = this.beside.ink;
    context.globalAlpha = 0.4;
    context.setLineDash([4, 3]);
    context.beginPath();
    context.moveTo(place.x(range[0]), place.y(range[0]));
    context.lineTo(place.x(range[1]), place.y(range[1]));
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
    this.drawGenes(context, this.beside, this.delta, this.effect, place);
    this.beside.describe(`Predicted change of each gene against ${this.sideLabel}. ${this.besideWords.textContent}`);
  }

  picking(surface) {
    const near = (event) => {
      const [x, y] = surface.at(event);
      let found = null;
      let nearest = 100;
      for (const point of surface.points ?? []) {
        const distance = (point[0] - x) ** 2 + (point[1] - y) ** 2;
        if (distance < nearest) [found, nearest] = [point, distance];
      }
      return found;
    };
    surface.canvas.classList.add("hx-pick");
    surface.canvas.addEventListener("pointermove", (event) => {
      const found = near(event);
      if (!found) surface.say("");
      else surface.say(`${this.base.genes[found[2]]}: log2 fold change ${number(this.log2fc[found[2]])}, ${this.base.doubt.name} ${this.doubt[found[2]] <= 1e-300 ? "< 1e-300" : number(this.doubt[found[2]], 3)}`, found[0], found[1]);
    });
    surface.canvas.addEventListener("pointerleave", () => surface.say(""));
    surface.canvas.addEventListener("click", (event) => {
      const found = near(event);
      if (found) this.ask("gene", this.base.genes[found[2]]);
    });
  }

  // --- expression by role and cell type ---

  shape(name) {
    for (const [one, button] of Object.entries(this.shapes)) button.setAttribute("aria-pressed", String(one === name));
    this.violins.box.hidden = name !== "violins";
    this.dots.box.hidden = name !== "dots";
    this.paint();
  }

  visibleGroups() {
    const rows = this.rowsOfGroups ?? [];
    return rows.map((row, group) => ({ group, n: row[1], mean: row[2], median: row[3], ...this.labels[group] })).filter((one) => one.role !== undefined && one.n > 0 && one.mean !== null);
  }

  groupName(context, one, width) {
    let text = `${one.role}${one.type ? `: ${one.type}` : ""}`;
    const tail = ` (${counted(one.n)})`;
    if (context.measureText(text + tail).width <= width) return text + tail;
    while (text.length > 3 && context.measureText(`${text}…${tail}`).width > width) text = text.slice(0, -1);
    return `${text}…${tail}`;
  }

  resize(surface, height) {
    if (surface.height === height) return false;
    surface.height = height;
    requestAnimationFrame(() => surface.box.isConnected && surface.paint());
    return true;
  }

  drawViolins(context) {
    if (!this.values || !this.rowsOfGroups) return;
    const shown = this.visibleGroups();
    if (this.resize(this.violins, 44 + ROW * Math.max(shown.length, 2))) return;
    const { width, ink } = this.violins;
    const left = Math.min(230, Math.round(width * 0.45));
    const top = this.largest || 1;
    const place = axes(context, this.violins, { x: [0, top], y: [0, Math.max(shown.length, 1)], xName: `${this.gene}, log1p(CP10k)`, yName: "", left });
    const bins = 40;
    const histograms = new Map(shown.map((one) => [one.group, new Float64Array(bins)]));
    for (let index = 0; index < this.values.length; index += 1) {
      const value = this.values[index];
      const histogram = histograms.get(this.group[index]);
      if (!histogram || value === ABSENT || !this.counts(index)) continue;
      histogram[Math.min(Math.floor((value / 255) * bins), bins - 1)] += 1;
    }
    shown.forEach((one, row) => {
      const histogram = histograms.get(one.group);
      const total = histogram.reduce((sum, value) => sum + value, 0);
      const middle = place.y(shown.length - row - 0.5);
      context.fillStyle = ink;
      context.textAlign = "right";
      context.fillText(this.groupName(context, one, left - 12), left - 6, middle + 4);
      if (!total) return;
      const mean = histogram.reduce((sum, value, bin) => sum + value * bin, 0) / total;
      const spread = Math.sqrt(histogram.reduce((sum, value, bin) => sum + value * (bin - mean) ** 2, 0) / total);
      const soft = Math.max(0.9 * spread * total ** -0.2, 0.7);
      const smooth = Float64Array.from({ length: bins }, (_, at) => histogram.reduce((sum, value, bin) => sum + value * Math.exp(-0.5 * ((at - bin) / soft) ** 2), 0));
      const most = smooth.reduce((high, value) => Math.max(high, value), 0);
      const across = (bin) => left + (bin / (bins - 1)) * (width - left - 10);
      context.beginPath();
      for (let bin = 0; bin < bins; bin += 1) context.lineTo(across(bin), middle - (smooth[bin] / most) * ROW * 0.42);
      for (let bin = bins - 1; bin >= 0; bin -= 1) context.lineTo(across(bin), middle + (smooth[bin] / most) * ROW * 0.42);
      context.closePath();
      context.globalAlpha = 0.75;
      context.fillStyle = this.base.colours[one.role] ?? GREY;
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(place.x(one.median), middle - ROW * 0.36);
      context.lineTo(place.x(one.median), middle + ROW * 0.36);
      context.stroke();
      context.lineWidth = 1;
    });
    if (!shown.length) {
      context.fillStyle = ink;
      context.textAlign = "center";
      context.fillText("The counts of these cells do not hold the gene", width / 2, 40);
    }
    this.violins.describe(`Violins of ${this.gene} by role and cell type; the table below gives the numbers.`);
  }

  drawDots(context) {
    if (!this.dotValues || !this.rowsOfGroups) return;
    const shown = this.visibleGroups();
    const head = 76;
    if (this.resize(this.dots, head + 10 + ROW * Math.max(shown.length, 1))) return;
    const { width, ink } = this.dots;
    const { genes, mean, detected } = this.dotValues;
    const left = Math.min(230, Math.round(width * 0.42));
    const step = Math.min((width - left - 30) / genes.length, 44);
    const n = this.labels.length;
    const top = Math.max(...mean.map((value) => value ?? 0), 1e-9);
    context.fillStyle = ink;
    genes.forEach((gene, column) => {
      context.save();
      context.translate(left + (column + 0.5) * step, head - 6);
      context.rotate(-Math.PI / 4);
      context.textAlign = "left";
      context.fillText(gene.slice(0, 12), 0, 0);
      context.restore();
    });
    shown.forEach((one, row) => {
      const y = head + (row + 0.5) * ROW;
      context.fillStyle = ink;
      context.textAlign = "right";
      context.fillText(this.groupName(context, one, left - 12), left - 6, y + 4);
      genes.forEach((_, column) => {
        const at = column * n + one.group;
        if (mean[at] === null || mean[at] === undefined) return;
        context.beginPath();
        context.arc(left + (column + 0.5) * step, y, 1.2 + Math.sqrt(detected[at]) * 8, 0, 2 * Math.PI);
        context.fillStyle = RAMP[Math.min(Math.floor((mean[at] / top) * RAMP.length), RAMP.length - 1)];
        context.fill();
        context.strokeStyle = ink;
        context.globalAlpha = 0.35;
        context.stroke();
        context.globalAlpha = 1;
      });
    });
    this.dots.describe(`Dot plot of ${genes.join(", ")}: size is the share of cells with a count, colour the mean, 0 to ${number(top, 1)}.`);
  }

  fillGroups() {
    const onMap = new Set();
    for (let index = 0; index < this.n; index += 1) if (!Number.isNaN(this.x[index])) onMap.add(this.mapGroup[index]);
    const rows = (this.rowsOfGroups ?? []).map((row, group) => {
      const { role, type } = this.labels[group] ?? {};
      const choose = onMap.has(group) && group < this.mapLabels.length ? tag("button", { type: "button", class: "hx-word", text: type || "unknown type", "aria-label": `Select ${role} cells: ${type || "unknown type"}`, onclick: () => this.ask("group", null, { role, type }) }) : type || "unknown type";
      const cells = [counted(row[0]), counted(row[1]), ...row.slice(2).map((value) => number(value))];
      return tag("tr", {}, tag("th", { scope: "row", text: role }), tag("td", {}, choose), ...cells.map((text) => tag("td", { class: "hx-number", text })));
    });
    const focused = this.groups.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.groups.replaceChildren(...rows);
    if (focused) [...this.groups.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focused)?.focus();
  }

  // --- the gene table ---

  columns() {
    const found = [
      { key: "gene", name: "gene", get: (gene) => this.lower[gene] },
      { key: "call", name: "call", get: (gene) => (this.flags[gene] & 2 ? Math.sign(this.log2fc[gene]) : 0), show: (value) => ({ 1: "▲ rises", "-1": "▼ falls" })[value] ?? "" },
      { key: "expected", name: "expected", get: (gene) => this.expected[gene], show: (value) => ({ 1: "▲", "-1": "▼" })[value] ?? "" },
      { key: "log2fc", name: "log2 fold change", get: (gene) => this.log2fc[gene], isNumber: true },
      { key: "delta", name: "mean log1p change", get: (gene) => this.delta[gene], isNumber: true },
      { key: "doubt", name: this.base.doubt.name, get: (gene) => this.doubt[gene], isNumber: true, digits: 3, show: (value) => (value <= 1e-300 ? "< 1e-300" : number(value, 3)) },
    ];
    if (this.shift) found.splice(1, 0, { key: "shift", name: "selected minus others", get: (gene) => this.shift[gene], isNumber: true });
    if (this.effect) found.push({ key: "effect", name: this.sideLabel.slice(0, 40), get: (gene) => this.effect[gene], isNumber: true });
    if (this.signs) found.push({ key: "sign", name: "in pathway", get: (gene) => this.signs[gene], show: (value) => ({ 1: "▲ with", "-1": "▼ against" })[value] ?? "" });
    return found;
  }

  refill() {
    this.rows = PAGE;
    this.fill();
    this.genesTable.parentElement.scrollTop = 0;
  }

  order(columns) {
    const wanted = this.filter.value.trim().toLowerCase();
    const found = [];
    for (let gene = 0; gene < this.lower.length; gene += 1) {
      if (wanted && !this.lower[gene].includes(wanted)) continue;
      if (this.only.checked && this.signs && !this.signs[gene]) continue;
      found.push(gene);
    }
    const { get, isNumber } = columns.find((one) => one.key === this.sort.column) ?? columns[0];
    const by = isNumber && this.sort.column !== "doubt" && this.sort.size !== false ? (gene) => Math.abs(get(gene)) : get;
    const sign = this.sort.down ? -1 : 1;
    const keys = new Map(found.map((gene) => [gene, by(gene)]));
    const isMissing = (value) => value === null || Number.isNaN(value);
    const rank = (gene) => (this.flags[gene] & 1 ? 0 : 1); // genes that were not tested come last
    found.sort((a, b) => {
      const [one, two] = [keys.get(a), keys.get(b)];
      if (rank(a) !== rank(b)) return rank(a) - rank(b);
      if (isMissing(one) || isMissing(two)) return isMissing(one) - isMissing(two);
      return sign * (typeof one === "string" ? one.localeCompare(two) : one - two);
    });
    if (wanted) found.sort((a, b) => (this.lower[b] === wanted) - (this.lower[a] === wanted) || this.lower[b].startsWith(wanted) - this.lower[a].startsWith(wanted));
    return found;
  }

  fill() {
    if (!this.base) return;
    const columns = this.columns();
    const focused = this.genesTable.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const arrow = (key) => (this.sort.column === key ? (this.sort.down ? " ↓" : " ↑") : "");
    this.headings.replaceChildren(
      ...columns.map((column) => {
        const sorted = this.sort.column === column.key ? (this.sort.down ? "descending" : "ascending") : null;
        const button = tag("button", { type: "button", "data-key": `head ${column.key}`, text: column.name + arrow(column.key), title: column.isNumber ? "Sort by size; again: the other way" : "Sort", onclick: () => this.sortBy(column.key) });
        return tag("th", { scope: "col", "aria-sort": sorted, class: column.isNumber ? "hx-number" : null }, button);
      }),
    );
    const order = this.order(columns);
    const shown = order.slice(0, this.rows);
    this.genes.replaceChildren(
      ...shown.map((gene, place) => {
        const name = this.base.genes[gene];
        const button = tag("button", { type: "button", class: "hx-word", text: name, "data-key": `gene ${name}`, tabindex: place ? "-1" : "0", onclick: () => this.ask("gene", name) });
        const cells = columns.slice(1).map((column) => {
          const value = column.get(gene);
          return tag("td", { class: column.isNumber ? "hx-number" : null, text: column.show ? column.show(value) : number(value, column.digits) });
        });
        const row = tag("tr", { "data-name": name }, tag("th", { scope: "row" }, button), ...cells);
        this.choose(row);
        return row;
      }),
    );
    this.more.hidden = order.length <= shown.length;
    this.shown.textContent = `${counted(shown.length)} of ${counted(order.length)} genes`;
    if (focused) [...this.genesTable.querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
  }

  choose(row) {
    const isOn = row.dataset.name === this.gene;
    row.classList.toggle("hx-chosen", isOn);
    row.querySelector("button").setAttribute("aria-pressed", String(isOn));
  }

  sortBy(key) {
    this.sort = { column: key, down: this.sort.column === key ? !this.sort.down : key !== "gene" && key !== "doubt" };
    this.refill();
  }

  walk(event) {
    const buttons = [...this.genes.querySelectorAll("button")];
    const here = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: buttons.length - 1, PageDown: here + 10, PageUp: here - 10 }[event.key];
    if (here < 0 || to === undefined) return;
    event.preventDefault();
    const next = buttons[Math.max(0, Math.min(to, buttons.length - 1))];
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  enter(event) {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const first = this.genes.rows[0];
    if (first) this.ask("gene", first.dataset.name);
  }

  // --- pathways and evidence ---

  fillPathways() {
    this.pathwayRows.replaceChildren(
      ...this.base.pathways.map((one) => {
        const button = tag("button", { type: "button", class: "hx-word", text: one.name, "aria-pressed": "false", onclick: () => this.ask("pathway", this.pathway === one.name ? "" : one.name) });
        const cells = [number(one.score, 1), number(one.statistic), number(one.p_signal, 3), number(one.p_specificity, 3), counted(one.n_genes)];
        return tag("tr", { "data-name": one.name }, tag("th", { scope: "row" }, button), tag("td", { text: one.expected ? "yes" : "" }), ...cells.map((text) => tag("td", { class: "hx-number", text })));
      }),
    );
  }

  showEvidence(found) {
    const word = (text, onclick) => tag("button", { type: "button", class: "hx-word", text, onclick });
    const arrow = (sign) => (sign > 0 ? "▲ " : "▼ ");
    const parts = [tag("ul", {}, ...found.facts.map((text) => tag("li", { text })))];
    if (found.pathways.length) {
      parts.push(tag("p", {}, tag("strong", { text: "Pathways" })));
      parts.push(tag("ul", {}, ...found.pathways.map((one) => tag("li", {}, arrow(one.sign), word(one.pathway, () => this.ask("pathway", one.pathway)), one.score === null ? "" : ` score ${number(one.score, 1)}${one.expected ? ", expected" : ""}`))));
    }
    const held = new Set(this.base.genes);
    for (const [name, links] of [["Regulators", found.regulators], ["Regulates", found.targets]]) {
      if (!links.length) continue;
      parts.push(tag("p", {}, tag("strong", { text: name })));
      parts.push(
        tag(
          "ul",
          {},
          ...links.map((one) => {
            const gene = held.has(one.gene) ? word(one.gene, () => this.ask("gene", one.gene)) : one.gene;
            const change = one.log2fc === null ? "not in the run" : `predicted ${one.log2fc >= 0 ? "+" : ""}${number(one.log2fc)}${one.called ? ", called" : ""}`;
            return tag("li", {}, arrow(one.sign), gene, ` ${one.kind}; ${change} `, tag("span", { class: "hx-soft", text: one.source }));
          }),
        ),
      );
    }
    if (found.papers.length) parts.push(tag("p", {}, tag("strong", { text: "Papers" })));
    for (const one of found.papers) {
      const about = [one.title, one.journal, one.year].filter(Boolean).join(", ");
      const isSafe = typeof one.link === "string" && one.link.startsWith("https://");
      const source = isSafe ? tag("a", { href: one.link, target: "_blank", rel: "noopener noreferrer", text: about }) : tag("span", { text: about });
      parts.push(tag("blockquote", {}, tag("p", { text: one.quote }), tag("p", { class: "hx-soft" }, `${one.stance}${one.retracted ? ", RETRACTED" : ""}: `, source)));
    }
    parts.push(...found.notes.map((text) => tag("p", { class: "hx-soft", text })));
    this.evidenceTitle.textContent = `Evidence for ${found.gene}`;
    this.evidence.replaceChildren(...parts);
    this.evidence.parentElement.scrollTop = 0;
  }

  // --- drawing ---

  paint() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      if (this.closed) return;
      if (this.base && !this.genes.rows.length) this.fill();
      for (const surface of this.surfaces) if (!surface.box.closest("[hidden]")) surface.paint();
      this.root.dataset.painted = String(Number(this.root.dataset.painted ?? 0) + 1);
    });
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
