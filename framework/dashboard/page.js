// The page itself: what is looked at lives in the address (#q=...), so that a view can be kept and sent.
const DATA = JSON.parse(document.getElementById("data").textContent);
const MOST_LINES = 40;  // runs drawn when none are picked
const SECTIONS = [
  ["learning", ["loss", "METRIC", "*", "lr", "grad_norm"]],
  ["speed", ["frames_per_s", "step_s", "hoisted_s", "loop_s", "cpu_use", "gpu_use", "gpu_watts"]],
  ["memory", ["peak_bytes"]],
];
const LABELS = {
  frames_per_s: ["frames per second", ""], step_s: ["time of an update", "ms"],
  hoisted_s: ["outside of the loops", "ms, forward of one update"], loop_s: ["inside the loops", "ms, forward of one update"],
  cpu_use: ["use of the CPU", "% of the threads"], gpu_use: ["use of the GPUs", "% of the time"],
  gpu_watts: ["power of the GPUs", "W"], peak_bytes: ["most memory", "MiB"], lr: ["learning rate", ""], grad_norm: ["norm of the gradient", "before clipping"],
};
const SCALES = { step_s: 1e3, hoisted_s: 1e3, loop_s: 1e3, cpu_use: 100, gpu_use: 100, peak_bytes: 1 / 2 ** 20 };
const BLANK = { q: "", group: "", sort: "", down: false, x: "step", smooth: 0, log: false, pick: [] };
let view = readView();

function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const text = (key) => given.get(key) ?? BLANK[key];
  const names = new Set(DATA.runs.map((run) => run.name));
  const smooth = Number(text("smooth"));
  return { q: text("q"), group: text("group"), sort: text("sort"), x: text("x") === "seconds" ? "seconds" : "step",
    down: given.get("down") === "true", log: given.get("log") === "true",
    smooth: smooth >= 0 && smooth <= 0.98 ? smooth : 0, pick: given.getAll("pick").filter((name) => names.has(name)) };
}

function change(part) {
  view = { ...view, ...part };
  const kept = new URLSearchParams();
  for (const [key, value] of Object.entries(view)) {
    for (const each of Array.isArray(value) ? value : [value]) if (each && each !== BLANK[key]) kept.append(key, each);
  }
  history.replaceState(null, "", "#" + kept);
  draw();
}

function draw() {
  const found = sorted(filtered(DATA.runs, view.q), view);
  const names = [...grouped(found, view.group).keys()];
  const order = new Map(DATA.runs.map((run, i) => [run.name, i]));
  const groupOf = new Map([...grouped(found, view.group)].flatMap(([name, runs]) => runs.map((run) => [run.name, names.indexOf(name)])));
  const numberOf = (run) => (view.group ? groupOf.get(run.name) : order.get(run.name));
  const picked = found.filter((run) => view.pick.includes(run.name));
  drawTable(found, view, numberOf, change);
  drawCompare(picked);
  const lines = picked.length ? picked : found.slice(0, MOST_LINES);
  drawCharts(lines, numberOf);
  const unknown = unknownKey(DATA.runs, view.q);
  const less = lines.length < found.length && !picked.length ? ` The curves are those of the first ${lines.length}.` : "";
  document.getElementById("note").textContent = unknown
    ? `No run has an option '${unknown}'.`
    : `${found.length} of ${DATA.runs.length} runs${picked.length ? `, ${picked.length} compared` : ""}.${less} Click on runs to compare them.`;
  fillControls();
}

function drawCharts(runs, numberOf) {
  const place = document.getElementById("charts");
  place.replaceChildren();
  const known = [...new Set(runs.flatMap((run) => run.curves.map((curve) => curve.key)))];
  const metrics = [...new Set(runs.map((run) => run.metric))].filter((key) => key !== "loss");
  const named = new Set(SECTIONS.flatMap(([, keys]) => keys).concat(metrics));
  for (const [title, keys] of SECTIONS) {
    const wanted = keys.flatMap((key) => (key === "METRIC" ? metrics : key === "*" ? known.filter((each) => !named.has(each)) : [key]));
    const figures = wanted.filter((key) => known.includes(key)).map((key) => chart(specOf(key, runs, numberOf)));
    if (figures.length) place.append(element("h2", {}, title), element("div", { class: "grid" }, ...figures));
  }
}

function specOf(key, runs, numberOf) {
  const [title, unit] = LABELS[key] || [key.replaceAll("_", " "), ""];
  const scale = SCALES[key] || 1, lines = [];
  let both = new Set();
  for (const run of runs) {
    for (const curve of run.curves.filter((each) => each.key === key)) {
      both.add(curve.split);
      const dev = curve.split === "dev";
      const x = view.x === "step" ? curve.x : curve.x.map((step) => secondsAt(run, step));
      const y = curve.y.map((value) => (value === null ? null : value * scale));
      lines.push({ name: `${run.name} ${curve.split}`, number: numberOf(run), bold: dev, x, y: dev ? y : smoothed(y, view.smooth) });
    }
  }
  return { title, unit: unit || (both.size > 1 ? "thin: train, thick: dev" : [...both][0]), lines,
    log: view.log && key === "loss", zero: SECTIONS.slice(1).some(([, keys]) => keys.includes(key)),
    xlabel: view.x === "step" ? "updates" : "s", whole: view.x === "step" };
}

// Seconds of training until an update, between those that are known.
function secondsAt(run, step) {
  const [steps, seconds] = run.clock;
  let i = steps.findIndex((each) => each >= step);
  if (i < 0) i = steps.length - 1;
  if (i === 0 || steps[i] <= step) return seconds[i];
  const part = (step - steps[i - 1]) / (steps[i] - steps[i - 1]);
  return seconds[i - 1] + part * (seconds[i] - seconds[i - 1]);
}

function fillControls() {
  const set = (id, value) => { const box = document.getElementById(id); if (document.activeElement !== box) box.value = value; };
  for (const id of ["q", "group", "x", "smooth"]) set(id, view[id]);
  document.getElementById("log").checked = view.log;
  document.getElementById("clear").hidden = !view.pick.length;
}

function start() {
  const made = DATA.runs.filter((run) => run.done).length;
  document.getElementById("made").textContent = `${DATA.runs.length} ${DATA.runs.length === 1 ? "run" : "runs"}, ${made} done · written ${DATA.made}`;
  const group = document.getElementById("group");
  group.append(element("option", { value: "" }, "nothing"));
  for (const key of DATA.differing) group.append(element("option", { value: key }, key));
  for (const id of ["q", "group", "x", "smooth"]) {
    document.getElementById(id).addEventListener("input", (event) => change({ [id]: id === "smooth" ? Number(event.target.value) : event.target.value }));
  }
  document.getElementById("log").addEventListener("input", (event) => change({ log: event.target.checked }));
  document.getElementById("clear").addEventListener("click", () => change({ pick: [] }));
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { view = readView(); draw(); });
  const asked = new URLSearchParams(location.hash.slice(1)).get("theme");
  const dark = asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.classList.toggle("dark", dark);
  document.getElementById("theme").addEventListener("click", () => document.documentElement.classList.toggle("dark"));
  const problems = DATA.runs.flatMap((run) => run.problems.map((text) => `${run.name}: ${text}`));
  if (problems.length) {
    const place = document.getElementById("problems");
    place.hidden = false;
    place.append(element("h2", {}, "What could not be read"), element("ul", {}, ...problems.map((text) => element("li", {}, text))));
  }
  draw();
}

start();
