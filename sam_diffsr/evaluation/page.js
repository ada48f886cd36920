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

// Each slider: drag to move the line, click to zoom, choose the two sides, show the difference from the truth.
const ZOOM = 4;
for (const card of document.querySelectorAll(".card")) {
  const slider = card.querySelector(".slider");
  const range = card.querySelector("input[type=range]");
  const images = [...slider.querySelectorAll("img")];
  let zoomed = null;
  let pressed = null;

  const draw = () => {
    const split = range.value / 100;
    const cut = zoomed === null ? split : zoomed + (split - zoomed) / ZOOM;
    slider.style.setProperty("--split", `${100 * split}%`);
    slider.style.setProperty("--cut", `${100 * cut}%`);
  };
  const place = (event) => {
    const box = slider.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  range.addEventListener("input", draw);
  slider.addEventListener("pointerdown", (event) => {
    pressed = { x: event.clientX, moved: false };
    slider.setPointerCapture(event.pointerId);
  });
  slider.addEventListener("pointermove", (event) => {
    if (pressed === null) return;
    pressed.moved ||= Math.abs(event.clientX - pressed.x) > 3;
    if (pressed.moved) {
      range.value = 100 * place(event)[0];
      draw();
    }
  });
  slider.addEventListener("pointerup", (event) => {
    if (pressed !== null && !pressed.moved) {
      const [x, y] = place(event);
      zoomed = slider.classList.toggle("zoom") ? x : null;
      slider.style.setProperty("--x", `${100 * x}%`);
      slider.style.setProperty("--y", `${100 * y}%`);
      draw();
    }
    pressed = null;
  });
  slider.addEventListener("pointercancel", () => { pressed = null; });

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
