// A click on a heading of the table sorts its rows by that column; a second click turns the order round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (first, second) => {
      const [a, b] = [value(first), value(second)];
      const numbers = Number(a) - Number(b);
      return Number.isNaN(numbers) ? a.localeCompare(b, undefined, { numeric: true }) : numbers;
    };
    const rows = [...body.rows].sort((a, b) => (order === "ascending" ? compare(a, b) : compare(b, a)));
    body.append(...rows);
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  });
}
