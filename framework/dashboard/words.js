"use strict";
// What the filter understands, and how values are shown. Nothing here touches the page.

// The value of a run under a name of the table or of an option; `lr` also finds `optimizer.lr`.
function valueOf(run, key) {
  if (FACTS[key]) return FACTS[key].get(run);
  if (key in run.options) return run.options[key];
  if (key in run.test) return run.test[key];
  const ends = Object.keys(run.options).filter((name) => name.endsWith("." + key));
  return ends.length ? run.options[ends[0]] : undefined;
}

const FACTS = {
  name: { title: "run", text: true, get: (run) => run.name },
  state: { title: "state", text: true, get: (run) => run.state },
  best: { title: "best dev", get: (run) => run.best },
  best_step: { title: "at update", get: (run) => run.best_step },
  test: { title: "test", get: (run) => run.test[run.metric] ?? null },
  loss: { title: "train loss", get: (run) => run.loss },
  step: { title: "updates", get: (run) => run.step },
  frames_per_s: { title: "frames/s", get: (run) => run.frames_per_s },
  cpu: { title: "CPU %", get: (run) => run.cpu_use && run.cpu_use * 100 },
  gpu: { title: "GPU %", get: (run) => run.gpu_use && run.gpu_use * 100 },
  peak: { title: "peak MiB", get: (run) => run.peak_bytes && run.peak_bytes / 2 ** 20 },
  predicted: { title: "kept MiB, predicted", get: (run) => run.predicted_bytes && run.predicted_bytes / 2 ** 20 },
  weights: { title: "weights", get: (run) => run.weights },
};

// Words that must all hold: text of the run, KEY=VALUE, KEY!=VALUE, KEY<NUMBER (also <=, >, >=); -WORD: not.
function parseFilter(text) {
  return text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const not = word.startsWith("-") && word.length > 1;
    const match = (not ? word.slice(1) : word).match(/^([\w./-]+?)(<=|>=|!=|=|<|>)(.*)$/);
    return match
      ? { not, key: match[1], sign: match[2], value: match[3] }
      : { not, plain: (not ? word.slice(1) : word).toLowerCase() };
  });
}

function holds(run, word) {
  if (word.plain !== undefined) {
    const options = Object.entries(run.options).map(([key, value]) => `${key}=${value}`);
    return [run.name, run.state, ...options].some((text) => text.toLowerCase().includes(word.plain));
  }
  const value = valueOf(run, word.key);
  if (value === undefined || (value === null && word.value !== "null")) return word.sign === "!=";
  const number = Number(word.value);
  const numeric = typeof value === "number" && word.value !== "" && !Number.isNaN(number);
  if (word.sign === "=" || word.sign === "!=") {
    const same = numeric ? value === number : String(value) === word.value;
    return same === (word.sign === "=");
  }
  if (!numeric) return false;
  return { "<": value < number, ">": value > number, "<=": value <= number, ">=": value >= number }[word.sign];
}

function filtered(runs, text) {
  const words = parseFilter(text);
  return runs.filter((run) => words.every((word) => holds(run, word) !== word.not));
}

function unknownKey(runs, text) {
  const asked = parseFilter(text).filter((word) => word.key && !FACTS[word.key]);
  const missing = asked.find((word) => !runs.some((run) => valueOf(run, word.key) !== undefined));
  return missing ? missing.key : "";
}

// Missing values come last, whichever way; -1, 0 or 1 else.
function ordered(a, b, down) {
  const gone = (value) => value === null || value === undefined;
  if (gone(a) || gone(b)) return gone(a) - gone(b);
  const both = typeof a === "number" && typeof b === "number";
  const order = both ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return Math.sign(down ? -order : order);
}

function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e9 || size < 1e-4) return value.toExponential(2);
  if (Number.isInteger(value) || size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(4)));
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
