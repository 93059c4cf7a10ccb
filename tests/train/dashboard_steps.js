// What a person does on the page, and what is then seen: test_dashboard.py compares it.
const seen = {errors: []};
addEventListener("error", (event) => seen.errors.push(event.message));
const names = () => [...document.querySelectorAll("#table tr.run")].map((row) => row.dataset.run);
const lines = (title) => document.querySelectorAll(`[data-chart="${title}"] path[data-run]`).length;
const type = (id, value) => {
  const box = document.getElementById(id);
  box[box.type === "checkbox" ? "checked" : "value"] = value;
  box.dispatchEvent(new Event("input"));
};
seen.first = {names: names(), charts: [...document.querySelectorAll("figure")].map((f) => f.dataset.chart), loss: lines("loss"),
  note: document.getElementById("note").textContent};
for (const words of ["gru", "lr>=0.001", "cell=gru lr<0.001", "-unfinished", "best>0.6 -cell=lstm", "cell!=gru", "speed>3"]) {
  type("q", words);
  (seen.filters ??= {})[words] = names();
}
seen.unknown = document.getElementById("note").textContent;
type("q", "");
const head = () => document.querySelector('[data-sort="optimizer.lr"]');
head().click(); seen.up = names();
head().click(); seen.down = names();
type("group", "cell");
seen.groups = [...document.querySelectorAll("tr.group")].map((row) => row.textContent);
document.querySelector('tr[data-run="sweep/0"]').click();
document.querySelector('tr[data-run="sweep/10"]').click();
seen.compared = [...document.querySelectorAll("#compared tr")].map((row) => [...row.children].map((cell) => cell.textContent));
seen.picked = lines("loss");
seen.plans = [...document.querySelectorAll("#compare pre")].map((each) => each.textContent);
type("x", "seconds"); type("log", true); type("smooth", "0.9");
const axis = [...document.querySelectorAll('[data-chart="loss"] text')].map((each) => each.textContent);
seen.axis = axis;
seen.address = location.hash;
const picture = document.querySelector('[data-chart="loss"] svg'), box = picture.getBoundingClientRect();
picture.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2}));
seen.tip = document.querySelector('[data-chart="loss"] .tip').textContent;
const dark = document.documentElement.classList.contains("dark"), paper = getComputedStyle(document.body).backgroundColor;
document.getElementById("theme").click();
seen.theme = [dark !== document.documentElement.classList.contains("dark"), paper !== getComputedStyle(document.body).backgroundColor];
document.getElementById("clear").click();
seen.after = lines("loss");
document.body.replaceChildren(element("pre", {id: "seen"}, JSON.stringify(seen)));
