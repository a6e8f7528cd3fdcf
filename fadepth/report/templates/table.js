// Sorts the tables of fadepth by their headers, within each group of rows. Without this script the
// tables are complete; they only keep their order.
(() => {
  "use strict";
  // A number where there is one ("> 500", "about 2"), else text; null for what is missing.
  const valueOf = (cell) => {
    const raw = cell.dataset.sort;
    if (raw === "" || cell.classList.contains("missing")) return null;
    if (!cell.classList.contains("num")) return raw;
    const found = raw.match(/-?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? Number(found[0]) : raw;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, "en", { numeric: true });
  };
  const sort = (body, column, direction) => {
    const rows = body.fadepthRows;
    const keyed = rows.map((row) => ({ row, value: valueOf(row.cells[column]) }));
    if (direction) {
      const sign = direction === "ascending" ? 1 : -1;
      keyed.sort((a, b) => {
        if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
        return sign * compare(a.value, b.value);
      });
    }
    body.append(...keyed.map((item) => item.row));
  };
  const turn = { ascending: "descending", descending: "ascending" };
  const press = (table, headers, header, column) => {
    const first = header.dataset.first;
    const now = header.getAttribute("aria-sort");
    const next = now === null ? first : now === first ? turn[first] : null; // third: as printed
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    if (next) header.setAttribute("aria-sort", next);
    for (const body of table.tBodies) sort(body, column, next);
  };
  for (const table of document.querySelectorAll(".fadepth-table table")) {
    if (table.fadepthSorted) continue;
    table.fadepthSorted = true;
    for (const body of table.tBodies) {
      body.fadepthRows = [...body.rows].filter((row) => !row.classList.contains("group"));
    }
    // Headers in the order of the columns: one that spans two lines stands in the first of them.
    const lines = [...table.tHead.rows].map((line) => [...line.cells]);
    const lower = lines.length > 1 ? [...lines[1]] : [];
    const headers = lines[0].flatMap((cell) =>
      cell.dataset.key === undefined ? lower.splice(0, cell.colSpan) : [cell]);
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => press(table, headers, header, column));
    });
  }
})();
