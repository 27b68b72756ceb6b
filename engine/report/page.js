"use strict";
(() => {
  const table = document.getElementById("sentences");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const filter = document.getElementById("filter");
  const count = document.getElementById("count");
  const collator = new Intl.Collator(undefined, { numeric: true });

  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = Array.from(row.cells, (cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };

  const sort = (column) => {
    const header = headers[column];
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    const sign = ascending ? 1 : -1;
    const text = (row) => row.cells[column].textContent;
    const compare = header.classList.contains("number")
      ? (a, b) => sign * (parseFloat(text(a)) - parseFloat(text(b)))
      : (a, b) => sign * collator.compare(text(a), text(b));
    headers.forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    rows.sort(compare);
    body.append(...rows);
  };

  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => sort(column)));
  filter.addEventListener("input", show);
  document.getElementById("controls").hidden = false;
  if (filter.value) show();
})();
