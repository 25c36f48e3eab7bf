"use strict";
// The page is whole without this: it only adds sorting, filtering and folding.
(() => {
  const order = new Intl.Collator("en", { numeric: true });
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell ? cell.dataset.sort ?? cell.textContent.trim() : "";
  };
  for (const table of document.querySelectorAll("table.sort")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows];
        rows.sort((a, b) => order.compare(valueOf(a, column), valueOf(b, column)) * (down ? -1 : 1));
        body.append(...rows);
      });
    });
  }
  for (const table of document.querySelectorAll("table.filter")) {
    const box = document.createElement("p");
    box.className = "tools";
    const label = document.createElement("label");
    const input = document.createElement("input");
    const found = document.createElement("output");
    input.type = "search";
    label.append(`Filter ${table.dataset.what} `, input);
    box.append(label, found);
    table.closest(".scroll").before(box);
    const rows = [...table.tBodies[0].rows];
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      found.textContent = words.length ? `${shown} of ${rows.length}` : "";
    });
  }
  const details = [...document.querySelectorAll("details")];
  const button = document.createElement("button");
  button.type = "button";
  const fold = () => (button.textContent = details.every((one) => one.open) ? "Fold all" : "Unfold all");
  button.addEventListener("click", () => {
    const open = !details.every((one) => one.open);
    details.forEach((one) => (one.open = open));
    fold();
  });
  details.forEach((one) => one.addEventListener("toggle", fold));
  fold();
  if (details.length) document.querySelector("nav").append(button);
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = details.filter((one) => !one.open);
    folded.forEach((one) => (one.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((one) => (one.open = false)));
  // A link into something folded opens it.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
