// Before/after sliders: <div class="slider" data-before=".." data-after=".."><img ..><img ..></div>
// makeSlider comes from sam_diffsr/evaluation/slider.js, which docs/hooks.py copies to assets/slider.js.
function prepareSlider(slider) {
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
  makeSlider(slider, range, 3);
}

// the theme's observable fires on the first page and after each instant navigation
document$.subscribe(() => document.querySelectorAll(".slider").forEach(prepareSlider));
