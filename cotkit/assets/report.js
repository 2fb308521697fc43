/* The table of rationales and outputs in a report: filters, pages, and a row's full text.
   The rows are JSON in the page. Text reaches the page as text nodes only. */
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const entries = values => data.fields.map((name, i) => [name, values[i]]);
const rows = data.rows.map(values => Object.fromEntries(entries(values)));
for (const row of rows) {
  [row.id, row.question, row.gold, row.choices] = data.problems[row.problem];
}
const names = ["kind", "who", "split", "verdict", "status"];
for (const name of names) {
  const select = at("by-" + name);
  const values = [...new Set(rows.map(row => row[name]))].filter(value => value !== "");
  for (const value of ["", ...values]) {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = value === "" ? "all" : name === "kind" ? value + "s" : value;
    select.append(option);
  }
  select.closest("label").hidden = values.length < 2;
}
const perPage = 25;
let shown = rows, page = 0, only = null;

function haystack(row) {
  const texts = [row.id, row.question, row.text, row.answer ?? "", row.gold, ...row.choices];
  return row.haystack ??= [...texts, ...row.turns.flat()].join("\n").toLowerCase();
}
const needle = () => at("search").value.trim().toLowerCase();
function filter() {
  const query = needle();
  const wanted = names.map(name => [name, at("by-" + name).value])
    .filter(([, value]) => value !== "");
  shown = rows.filter(row => wanted.every(([name, value]) => row[name] === value)
    && (only === null || row.problem === only) && (query === "" || haystack(row).includes(query)));
  page = 0;
  draw();
}
let waiting = 0;
at("search").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, rows.length > 2000 ? 150 : 0);
});
for (const name of names) at("by-" + name).addEventListener("change", filter);
at("filters").addEventListener("submit", event => event.preventDefault());
at("filters").addEventListener("reset", () => {
  only = null;
  setTimeout(filter, 0);
});
at("previous").addEventListener("click", () => { page -= 1; draw(); });
at("next").addEventListener("click", () => { page += 1; draw(); });

function make(tag, content, className) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (content !== undefined) element.append(content);
  return element;
}
function marked(text) {
  const query = needle(), lower = text.toLowerCase();
  const found = document.createDocumentFragment();
  let from = 0, hit;
  while (query && lower.length === text.length && (hit = lower.indexOf(query, from)) >= 0) {
    found.append(text.slice(from, hit), make("mark", text.slice(hit, hit + query.length)));
    from = hit + query.length;
  }
  found.append(text.slice(from));
  return found;
}
const signs = {correct: "✓", wrong: "✗", unparsed: "?"};
function draw() {
  const pages = Math.max(1, Math.ceil(shown.length / perPage));
  const body = at("rows").tBodies[0];
  body.replaceChildren(...shown.slice(page * perPage, (page + 1) * perPage).map(line));
  if (!shown.length) {
    const cell = make("td", "Nothing matches. Reset shows all rows.", "empty");
    cell.colSpan = 6;
    body.append(make("tr", cell));
  }
  const [some, all] = [shown, rows].map(list => list.length.toLocaleString("en"));
  const about = only === null ? "" : `, all about problem ${data.problems[only][0]}`;
  at("count").textContent = `${some} of ${all} rows${about}`;
  at("page").textContent = `Page ${page + 1} of ${pages}`;
  at("previous").disabled = page === 0;
  at("next").disabled = page >= pages - 1;
}

function line(row) {
  const tr = make("tr", undefined, "row");
  const open = make("button", undefined, "open " + row.verdict);
  open.type = "button";
  open.append(`${signs[row.verdict] ?? "·"} ${row.verdict}`);
  open.setAttribute("aria-expanded", "false");
  open.setAttribute("aria-label", `${row.verdict}: show in full`);
  const first = make("td", open);
  if (row.status) first.append(make("div", row.status, "soft"));
  const split = row.split || (row.kind === "rationale" ? "rationale" : "");
  tr.append(first, make("td", row.who), make("td", split));
  for (const text of [row.question || row.id, row.answer ?? "–", row.gold]) {
    tr.append(make("td", make("div", marked(text), "clip")));
  }
  tr.addEventListener("click", event => {
    if (!event.target.closest("button") && String(getSelection())) return;
    const isOpen = tr.nextElementSibling?.classList.contains("detail");
    if (isOpen) tr.nextElementSibling.remove();
    else tr.after(detail(row));
    open.setAttribute("aria-expanded", String(!isOpen));
  });
  return tr;
}
function dialogue(turns) {
  const said = make("ol", undefined, "dialogue");
  for (const [question, solution] of turns) {
    const turn = make("li", make("b", marked(question || "…")));
    turn.append(make("div", marked(solution)));
    said.append(turn);
  }
  return said;
}
function detail(row) {
  const list = make("dl"), cell = make("td", list);
  const all = make("button", "All rows about this problem");
  const add = (name, text, tag = "pre") => {
    list.append(make("dt", name), make("dd", make(tag, marked(String(text)))));
  };
  add("Question", row.question || "(this problem was not given to the report)", "span");
  if (row.choices.length) add("Choices", row.choices.join("\n"), "span");
  if (row.turns.length) list.append(make("dt", "Dialogue"), make("dd", dialogue(row.turns)));
  add(row.kind === "rationale" ? "Rationale" : "Output", row.text);
  add("Answer read", row.answer ?? "none", "span");
  add("Gold answer", row.gold, "span");
  add("Problem", row.id + (row.sample ? `, sample ${row.sample}` : ""), "span");
  all.type = "button";
  all.addEventListener("click", () => {
    at("filters").reset();
    setTimeout(() => {
      only = row.problem;
      filter();
      at("count").scrollIntoView({block: "center"});
    }, 1);
  });
  list.append(make("dt", ""), make("dd", all));
  cell.colSpan = 6;
  return make("tr", cell, "detail");
}
draw();
