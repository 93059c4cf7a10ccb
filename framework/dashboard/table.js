// The table of runs, in groups, and the comparison of those that were picked.
const OPTION_COLUMNS = 14;

// What was found, then by which options, then at which cost.
function columns() {
  const facts = Object.keys(FACTS).filter((key) => DATA.runs.some((run) => FACTS[key].get(run) !== null));
  const options = DATA.differing.filter((key) => !(key in FACTS)).slice(0, OPTION_COLUMNS);
  const cost = facts.indexOf("step");
  return [...facts.slice(0, cost), ...options, ...facts.slice(cost)];
}

// Best first unless told: by the metric of each, so that runs of one task stand together.
function sorted(runs, view) {
  const down = view.down, key = view.sort;
  return [...runs].sort((a, b) => {
    if (!key) return ordered(a.metric, b.metric) || ordered(a.best, b.best, a.higher) || ordered(a.name, b.name);
    return ordered(valueOf(a, key), valueOf(b, key), down) || ordered(a.name, b.name);
  });
}

function grouped(runs, key) {
  const groups = new Map();
  for (const run of runs) {
    const name = key ? `${key}=${valueOf(run, key) ?? "(none)"}` : "";
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(run);
  }
  return groups;
}

// How good a group is: its best, and mean and standard deviation where there are several runs of one metric.
function groupText(name, runs) {
  const values = runs.map((run) => run.best).filter((value) => value !== null);
  const metrics = new Set(runs.map((run) => run.metric));
  let text = `${name}: ${runs.length} run${runs.length > 1 ? "s" : ""}`;
  if (!values.length || metrics.size > 1) return text;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const best = runs[0].higher ? Math.max(...values) : Math.min(...values);
  text += `, ${runs[0].metric} best ${shown(best)}`;
  if (values.length < 2) return text;
  const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
  return `${text}, mean ${shown(mean)} ± ${shown(spread)}`;
}

function dot(number) {
  const { colour, dash } = styleOf(number);
  const style = dash ? "dashed" : "solid";
  return element("span", { class: "dot", style: `border-top-color:${colour};border-top-style:${style}` });
}

function drawTable(runs, view, numberOf, change) {
  const table = document.getElementById("table"), keys = columns();
  const metrics = new Set(DATA.runs.map((run) => run.metric));
  const head = element("tr", {}, element("th", {}));
  for (const key of keys) {
    let title = FACTS[key] ? FACTS[key].title : key;
    if (metrics.size === 1 && (key === "best" || key === "test")) title += ` ${[...metrics][0]}`;
    const arrow = view.sort === key ? (view.down ? " ▾" : " ▴") : "";
    const cell = element("th", { "data-sort": key, class: isText(key) ? "text" : "" }, title + arrow);
    cell.addEventListener("click", () => change({ sort: key, down: view.sort === key ? !view.down : false }));
    head.append(cell);
  }
  const body = element("tbody");
  for (const [name, members] of grouped(runs, view.group)) {
    if (view.group) {
      const cell = element("td", { colspan: keys.length + 1 }, dot(numberOf(members[0])), groupText(name, members));
      body.append(element("tr", { class: "group" }, cell));
    }
    for (const run of members) body.append(row(run, keys, view, numberOf, change, metrics.size > 1));
  }
  table.replaceChildren(element("thead", {}, head), body);
}

function isText(key) {
  return FACTS[key] ? Boolean(FACTS[key].text) : DATA.runs.some((run) => typeof run.options[key] === "string");
}

function row(run, keys, view, numberOf, change, several) {
  const picked = view.pick.includes(run.name);
  const made = element("tr", { class: `run${picked ? " picked" : ""}`, "data-run": run.name });
  const box = element("input", { type: "checkbox", "aria-label": `compare ${run.name}` });
  box.checked = picked;
  made.append(element("td", {}, box));
  for (const key of keys) {
    const value = valueOf(run, key);
    const cell = element("td", { class: isText(key) ? "text" : "" });
    if (key === "name") cell.append(dot(numberOf(run)));
    cell.append(shown(value) + (several && key === "best" && value !== null ? ` ${run.metric}` : ""));
    if (isText(key)) cell.title = shown(value);
    if (key === "state" && !run.done) cell.classList.add("unfinished");
    made.append(cell);
  }
  made.addEventListener("click", () => {
    change({ pick: picked ? view.pick.filter((name) => name !== run.name) : [...view.pick, run.name] });
  });
  return made;
}

function drawCompare(runs) {
  const place = document.getElementById("compare");
  place.hidden = !runs.length;
  if (!runs.length) return place.replaceChildren();
  const alone = runs.length === 1;
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.options)))];
  const rows = keys.filter((key) => alone || new Set(runs.map((run) => String(run.options[key]))).size > 1);
  const tests = [...new Set(runs.flatMap((run) => Object.keys(run.test)))];
  const table = element("table", { id: "compared" });
  const add = (name, get, tag = "td") => {
    table.append(element("tr", {}, element("th", { class: "text" }, name), ...runs.map((run) => element(tag, { class: "text" }, shown(get(run))))));
  };
  add("", (run) => run.name, "th");
  const facts = Object.keys(FACTS).filter((key) => key !== "name" && key !== "test");
  for (const key of facts.filter((each) => runs.some((run) => FACTS[each].get(run) !== null))) {
    add(FACTS[key].title, FACTS[key].get);
  }
  for (const key of tests) add(`test ${key}`, (run) => run.test[key]);
  for (const key of ["device", "about"]) add(key === "about" ? "data" : key, (run) => run[key]);
  for (const key of rows) add(key, (run) => run.options[key]);
  const plans = [...new Set(runs.map((run) => run.plan))].filter((plan) => DATA.plans[plan]);
  const texts = plans.map((plan) => {
    const names = runs.filter((run) => run.plan === plan).map((run) => run.name).join(", ");
    return element("details", {}, element("summary", {}, `plan of ${names}`), element("pre", {}, DATA.plans[plan]));
  });
  place.replaceChildren(element("h2", {}, alone ? "This run" : "What is not the same"),
    element("div", { class: "wrap" }, table), element("div", { class: "plans" }, ...texts));
}
