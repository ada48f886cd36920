// Before/after sliders: <div class="slider" data-before=".." data-after=".."><img ..><img ..></div>
// Drag to move the line, click to zoom. The range below it serves the keyboard and screen readers.
const ZOOM = 3;

function makeSlider(slider) {
  if (slider.dataset.ready) return;
  slider.dataset.ready = "yes";
  for (const text of [slider.dataset.before ?? "bicubic", slider.dataset.after ?? "SAM-DiffSR"]) {
    const label = document.createElement("b");
    label.textContent = text;
    slider.append(label);
  }
  slider.append(document.createElement("i"));
  const range = document.createElement("input");
  range.type = "range";
  range.value = 50;
  range.setAttribute("aria-label", "share of the image that is shown before upscaling");
  slider.after(range);

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
    if (!pressed.moved) return;
    range.value = 100 * place(event)[0];
    draw();
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
  draw();
}

// the theme's observable fires on the first page and after each instant navigation
document$.subscribe(() => document.querySelectorAll(".slider").forEach(makeSlider));
