// One chart: lines over updates or seconds, as SVG, with the nearest point told under the pointer.
const WIDE = 420, HIGH = 230, PAD = { left: 52, right: 8, top: 8, bottom: 22 };
const COLOURS = 8, DASHES = ["", "6 3", "2 3", "8 3 2 3"];

function styleOf(number) {
  return { colour: `var(--c${number % COLOURS})`, dash: DASHES[Math.floor(number / COLOURS) % DASHES.length] };
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) found.push(n * step);
  return found;
}

function powers(low, high) {
  const found = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high) + 1e-9; p += 1) {
    for (const each of high / low > 1000 ? [1] : [1, 2, 5]) {
      const value = each * 10 ** p;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  return found.length > 1 ? found : [low, high];
}

function smoothed(ys, amount) {
  let mean = null;
  return ys.map((y) => {
    if (y === null || !amount) return y;
    mean = mean === null ? y : amount * mean + (1 - amount) * y;
    return mean;
  });
}

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// spec: title, unit, lines [{name, number, bold, x, y}], log, zero (the axis begins at 0), xlabel,
// whole (x are whole numbers).
function chart(spec) {
  const figure = element("figure", { "data-chart": spec.title });
  figure.append(element("figcaption", {}, spec.title + " ", element("small", {}, spec.unit || "")));
  const good = (y) => y !== null && (!spec.log || y > 0);
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const line of spec.lines) {
    line.y.forEach((y, i) => {
      x0 = Math.min(x0, line.x[i]); x1 = Math.max(x1, line.x[i]);
      if (good(y)) { y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
    });
  }
  if (!(y1 >= y0)) { y0 = spec.log ? 1 : 0; y1 = spec.log ? 10 : 1; }
  if (spec.zero && !spec.log) y0 = Math.min(y0, 0);
  if (y1 - y0 <= Math.abs(y1) * 1e-9) { const room = Math.abs(y1) * 0.1 || 1; y0 -= spec.log ? y0 / 2 : room; y1 += room; }
  if (x1 <= x0) { x0 -= 1; x1 += 1; }
  const scale = spec.log ? Math.log10 : (y) => y;
  const px = (x) => PAD.left + (x - x0) / (x1 - x0) * (WIDE - PAD.left - PAD.right);
  const py = (y) => HIGH - PAD.bottom - (scale(y) - scale(y0)) / (scale(y1) - scale(y0)) * (HIGH - PAD.top - PAD.bottom);
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": spec.title });
  for (const y of spec.log ? powers(y0, y1) : ticks(y0, y1, 5)) {
    picture.append(svg("line", { class: "axis", x1: PAD.left, x2: WIDE - PAD.right, y1: py(y), y2: py(y) }));
    picture.append(svg("text", { x: PAD.left - 6, y: py(y) + 4, "text-anchor": "end" }, brief(y)));
  }
  const marks = ticks(x0, x1, 5), whole = spec.whole ? marks.filter(Number.isInteger) : marks;
  for (const x of whole.length > 1 ? whole : marks) {
    const anchor = px(x) > WIDE - PAD.right - 14 ? "end" : "middle";
    picture.append(svg("text", { x: px(x), y: HIGH - 6, "text-anchor": anchor }, brief(x)));
  }
  spec.lines.forEach((line) => drawLine(picture, line, good, px, py));
  figure.append(picture);
  addTip(figure, picture, spec, good, px, py);
  return figure;
}

// 12k, 3.4M, 0.05: what fits beside an axis.
function brief(value) {
  const size = Math.abs(value);
  if (size >= 1e13) return value.toExponential(1);
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= unit) return `${Number((value / (letter === "k" ? 1e3 : unit)).toPrecision(4))}${letter}`;
  }
  return size > 0 && size < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(4)));
}

function drawLine(picture, line, good, px, py) {
  const style = styleOf(line.number);
  let path = "", open = false;
  line.y.forEach((y, i) => {
    if (good(y)) {
      path += `${open ? "L" : "M"}${px(line.x[i]).toFixed(1)} ${py(y).toFixed(1)}`;
      open = true;
      return;
    }
    open = false;  // a value that is not finite: a cross on the upper edge
    picture.append(svg("text", { x: px(line.x[i]), y: PAD.top + 4, "text-anchor": "middle", style: `fill:${style.colour}` }, "×"));
  });
  if (path) {
    picture.append(svg("path", { d: path, "data-run": line.name, stroke: style.colour, "stroke-dasharray": style.dash,
      "stroke-width": line.bold ? 2 : 1.1, "stroke-opacity": line.bold ? 1 : 0.65 }));
  }
  if (line.bold ? line.y.length <= 30 : line.y.length === 1) {  // a single point has no line
    line.y.forEach((y, i) => good(y) && picture.append(svg("circle", { cx: px(line.x[i]), cy: py(y), r: 2.2, style: `fill:${style.colour}` })));
  }
}

function addTip(figure, picture, spec, good, px, py) {
  const tip = element("div", { class: "tip", hidden: "" });
  const ring = svg("circle", { r: 4, fill: "none", stroke: "currentColor", visibility: "hidden" });
  picture.append(ring);
  figure.append(tip);
  picture.addEventListener("pointerleave", () => { tip.hidden = true; ring.setAttribute("visibility", "hidden"); });
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * WIDE, y = (event.clientY - box.top) / box.height * HIGH;
    let nearest = null, least = Infinity;
    for (const line of spec.lines) {
      line.y.forEach((value, i) => {
        if (!good(value)) return;
        const far = (px(line.x[i]) - x) ** 2 + (py(value) - y) ** 2;
        if (far < least) { least = far; nearest = { line, at: line.x[i], value }; }
      });
    }
    if (!nearest) return;
    ring.setAttribute("cx", px(nearest.at)); ring.setAttribute("cy", py(nearest.value)); ring.setAttribute("visibility", "visible");
    tip.textContent = `${nearest.line.name}: ${shown(nearest.value)} at ${shown(nearest.at)} ${spec.xlabel}`;
    tip.hidden = false;
    const left = event.clientX - box.left + 14, room = figure.clientWidth - tip.offsetWidth - 6;
    tip.style.left = `${Math.max(4, Math.min(left, room))}px`;
    tip.style.top = `${event.clientY - box.top + 30}px`;
  });
}
