"use strict";
for (const table of document.querySelectorAll("table.sortable:not([data-sortable])")) {
  table.dataset.sortable = ""; // a notebook runs this once per table, and finds the others again
  const body = table.tBodies[0];
  if (!body || !table.tHead?.rows.length) continue;
  const rows = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell?.dataset.value ?? cell?.textContent.trim() ?? "";
    const number = Number(text);
    return text === "" || Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const isMissing = (item) => item === "" || item === "nan" || item === "not computed";
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = rows.map((row) => [value(row, column), row]);
      const known = keyed.filter(([item]) => !isMissing(item));
      const missing = keyed.filter(([item]) => isMissing(item));
      known.sort((a, b) => compare(a[0], b[0]) * (up ? 1 : -1));
      body.append(...known.map(([, row]) => row), ...missing.map(([, row]) => row));
    });
  });
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  label.className = "filter";
  label.append("Filter rows", input, count);
  input.type = "search";
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    count.textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
  (table.closest(".scroll") ?? table).before(label);
}
