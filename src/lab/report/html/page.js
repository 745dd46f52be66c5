"use strict";
// Show the image and the text of the t-SNE point next to the pointer.
// Without JavaScript, the browser shows the text only.
for (const map of document.querySelectorAll("svg.tsne")) {
  const figure = map.closest("figure");
  const peek = figure.querySelector(".peek");
  const sheet = figure.querySelector(".sheet");
  const words = peek.querySelector(".words"), ring = map.querySelector(".at");
  const points = Array.from(map.querySelectorAll(".mark"), (mark) => {
    const title = mark.querySelector("title"), says = title.textContent;
    title.remove();
    return { x: Number(mark.getAttribute("x")), y: Number(mark.getAttribute("y")), says };
  });
  let at = -1;

  const hide = () => { peek.hidden = true; ring.setAttribute("visibility", "hidden"); };

  const show = (i) => {
    at = i;
    const point = points[i], scale = map.getScreenCTM();
    words.textContent = point.says;
    ring.setAttribute("cx", point.x);
    ring.setAttribute("cy", point.y);
    ring.setAttribute("visibility", "visible");
    peek.hidden = false;
    if (sheet) {  // whose size is known only now
      const columns = Number(sheet.dataset.columns);
      sheet.style.backgroundPosition =
        `${-(i % columns) * sheet.offsetWidth}px ${-Math.floor(i / columns) * sheet.offsetHeight}px`;
    }
    const x = scale.a * point.x + scale.e, y = scale.d * point.y + scale.f, gap = 14;
    const fits = x + gap + peek.offsetWidth <= document.documentElement.clientWidth;
    const left = fits ? x + gap : x - gap - peek.offsetWidth;
    const lowest = window.innerHeight - peek.offsetHeight - 4;
    peek.style.left = `${Math.max(4, left)}px`;
    peek.style.top = `${Math.max(4, Math.min(y + gap, lowest))}px`;
  };

  const nearest = (event) => {
    const scale = map.getScreenCTM();
    const x = (event.clientX - scale.e) / scale.a, y = (event.clientY - scale.f) / scale.d;
    let closest = -1, least = (24 / scale.a) ** 2;
    points.forEach((point, i) => {
      const squared = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (squared < least) { least = squared; closest = i; }
    });
    if (closest < 0) hide(); else if (closest !== at || peek.hidden) show(closest);
  };

  map.addEventListener("pointermove", nearest);
  map.addEventListener("pointerdown", nearest);
  map.addEventListener("pointerleave", hide);
  map.addEventListener("blur", hide);
  map.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show((at + step + points.length) % points.length);
  });
  window.addEventListener("scroll", hide, { passive: true });
}
