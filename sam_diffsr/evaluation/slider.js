// A before/after slider: drag to move the line, click to zoom. A range input has the line's position in percent,
// also for the keyboard. CSS gets --split and --cut (the line in the box and in the image), --x, --y and .zoom.
function makeSlider(slider, range, zoom) {
  let zoomed = null;
  let pressed = null;
  const draw = () => {
    const split = range.value / 100;
    const cut = zoomed === null ? split : zoomed + (split - zoomed) / zoom;
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
