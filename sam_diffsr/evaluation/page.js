// A click on a heading sorts the table by that column; a second click reverses the order.
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

// Each card: a slider, the choice of its two sides, and the difference from the truth.
for (const card of document.querySelectorAll(".card")) {
  const slider = card.querySelector(".slider");
  const images = [...slider.querySelectorAll("img")];
  makeSlider(slider, card.querySelector("input[type=range]"), 4);
  for (const side of card.querySelectorAll("select")) {
    side.addEventListener("change", () => {
      images.forEach((image, index) => image.classList.toggle(side.className, index === side.selectedIndex));
    });
  }
  card.querySelector("input[type=checkbox]").addEventListener("change", (event) => {
    if (slider.querySelector(".truth") === null) {
      const truth = new Image();
      truth.src = images.at(-1).src;
      truth.className = "truth";
      slider.append(truth);
    }
    slider.classList.toggle("difference", event.target.checked);
  });
}
