// The web copilot: a question, its stages, SQL that can be changed, rows and a chart. Text of others only ever becomes text.
import { forGood } from "./memory.js";
import { ask, download, get, key, query, say, Trouble } from "./server.js";
import { Table } from "./table.js";
import { Thread } from "./thread.js";

const $ = (id) => document.getElementById(id);
const HISTORY = "openarctic.history";
const THEME = "openarctic.theme";
const LIMIT = 10000;
const MOST_SAVED = 1000000; // rows of a file

const table = new Table($("scroller"), $("head"), $("rows"));
const thread = new Thread($("thread"), (turn) => showAgain(turn));
const state = { question: "", sql: "", asked: "", schema: [], work: null, keepsFeedback: false };

// What happens

async function begin(work) {
  state.work?.abort();
  const control = (state.work = new AbortController());
  busy(true);
  trouble(null);
  try {
    await work(control.signal);
  } catch (error) {
    if (error.name !== "AbortError") trouble(error);
    else stage("Stopped.");
  } finally {
    if (state.work === control) {
      state.work = null;
      busy(false);
    }
  }
}

function askQuestion() {
  const question = $("question").value.trim();
  if (!question) return $("question").focus();
  return begin(async (signal) => {
    $("result").hidden = true;
    $("asked-back").hidden = true;
    stage("Looking at the schema", true);
    const wanted = { question, database: $("database").value, chart: true, limit: LIMIT, ...thread.context };
    for await (const [name, told] of ask(wanted, signal)) {
      if (name === "linked") stage(`Writing and running SQL over ${told.tables.join(", ")}`, true);
      if (name === "sql") stage("Running it", true);
      if (name === "done") answered(told);
      if (name === "error") throw new Trouble(told.error.message, told.error.hint ?? "");
    }
  });
}

function answered(told) {
  thread.askedBack = told.clarification;
  if (told.clarification) return askBack(told.clarification);
  Object.assign(state, { question: told.question, asked: told.sql });
  thread.add(told);
  show(told);
  remember(told.question, told.sql);
  drawThread();
  if (document.activeElement === $("question")) $("question").select();
}

function askBack(askedBack) {
  stage("Which one do you mean?");
  $("asked-back").hidden = false;
  askedBack.choices.forEach((choice, i) => {
    const button = $(`choice-${i + 1}`);
    button.textContent = `${i + 1}: ${choice.text}`;
    button.onclick = () => choose(i + 1);
  });
  $("choice-1").focus();
}

function choose(number) {
  $("question").value = String(number);
  $("question").focus();
  return askQuestion();
}

// The thread is what follow-ups are about; a new question has none.
function drawThread() {
  const has = thread.turns.length > 0;
  $("thread-part").hidden = !has;
  $("question-label").textContent = has ? "Your follow-up, or another question" : "Your question";
}

function newQuestion() {
  thread.reset($("database").value);
  drawThread();
  $("asked-back").hidden = true;
  $("result").hidden = true;
  $("question").value = "";
  stage("A new conversation.");
  $("question").focus();
}

function showAgain(turn) {
  Object.assign(state, { question: turn.question, asked: turn.sql });
  $("question").value = turn.question;
  $("sql").value = turn.sql;
  drawThread();
  return runSql(false);
}

function runSql(amends = true) {
  const sql = $("sql").value.trim();
  if (!sql) return $("sql").focus();
  return begin(async (signal) => {
    stage("Running it", true);
    const told = await query({ sql, database: $("database").value, chart: true, limit: LIMIT }, signal);
    show({ ...told, answer: "", confidence: null, read_as: null });
    if (amends) {
      thread.amend(told.sql);
      drawThread();
      remember("", told.sql);
    }
  });
}

// What is shown

function busy(is) {
  $("send").disabled = is;
  $("run").disabled = is;
  $("stop").hidden = !is;
}

function stage(text, isBusy = false) {
  $("stage").textContent = text;
  $("stage").classList.toggle("busy", isBusy);
}

function trouble(error) {
  $("trouble").hidden = error === null;
  if (error === null) return;
  stage("");
  $("what").textContent = error.message;
  $("hint").textContent = error.hint ?? "";
  if (error.status === 401) {
    $("login").hidden = false;
    $("key").focus();
  }
}

function show(told) {
  state.sql = told.sql;
  $("result").hidden = false;
  $("answer").textContent = told.answer;
  $("read-as").textContent = told.read_as ? `Read as: ${told.read_as}.` : "";
  $("trust").textContent = trust(told);
  $("sql").value = told.sql;
  $("edited").textContent = "";
  table.show(told.columns ?? [], told.rows ?? []);
  const count = (told.rows ?? []).length;
  $("count").textContent = told.truncated ? `The first ${count} rows; there are more.` : `${count} ${count === 1 ? "row" : "rows"}`;
  drawChart(told);
  drawVerdict();
  stage(told.answer ? "Done." : `Done: ${$("count").textContent}`);
}

function trust(told) {
  if (told.verified?.used) return `Verified by ${told.verified.verified_by ?? "a reviewer"}.`;
  if (told.confidence === null || told.confidence === undefined) return "";
  const percent = Math.round(100 * told.confidence);
  return `Confidence ${percent} %.${percent < 50 ? " Read the SQL before you trust it." : ""}`;
}

// Thumbs are about the answer to a question; SQL that was changed afterwards and ran can be kept as the right one.
function drawVerdict() {
  $("verdict").hidden = !state.keepsFeedback || !state.question;
  $("correct").hidden = state.sql === state.asked;
  $("thanks").textContent = "";
}

async function judge(verdict, corrected = "") {
  try {
    await say({ question: state.question, sql: state.asked, verdict, corrected });
    $("thanks").textContent = "Kept for review. Thank you.";
  } catch (error) {
    trouble(error);
  }
}

function drawChart(told) {
  const has = Boolean(told.chart_svg);
  $("tab-chart").hidden = !has;
  if (has) {
    $("chart").src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(told.chart_svg)}`;
    $("chart").alt = told.answer || "Chart of the rows in the table";
  } else $("chart").removeAttribute("src");
  select(has ? "chart" : "table");
}

function select(view, focuses = false) {
  for (const name of ["table", "chart"]) {
    const tab = $(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === view));
    tab.tabIndex = name === view ? 0 : -1;
    $(`view-${name}`).hidden = name !== view;
  }
  if (focuses) $(`tab-${view}`).focus();
  if (view === "table") table.draw(true);
}

async function save(format) {
  stage("Making the file", true);
  try {
    const isWhole = await download({ sql: state.sql, database: $("database").value, format, limit: MOST_SAVED });
    stage(isWhole ? "Done: the file has all rows." : "The file has only the first rows; there are more.");
  } catch (error) {
    trouble(error);
  }
}

// Schema

async function loadSchema() {
  state.schema = (await get(`/v1/schema?database=${encodeURIComponent($("database").value)}`)).tables;
  drawSchema();
}

function drawSchema() {
  const wanted = $("search").value.trim().toLowerCase();
  const has = (text) => text.toLowerCase().includes(wanted);
  const shown = state.schema.filter((t) => has(t.name) || t.columns.some((c) => has(c.name)));
  $("schema").replaceChildren(...shown.slice(0, 300).map((t) => drawTable(t, wanted !== "" && !has(t.name))));
  if (!shown.length) $("schema").textContent = "Nothing of that name.";
}

function drawTable(described, isOpen) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const list = document.createElement("ul");
  details.open = isOpen;
  summary.textContent = described.name + (described.row_count === null ? "" : ` (${described.row_count})`);
  if (described.comment) summary.title = described.comment;
  details.append(summary, list);
  const fill = () => list.children.length || list.append(...described.columns.map((column) => drawColumn(described, column)));
  details.addEventListener("toggle", fill);
  if (isOpen) fill();
  return details;
}

function drawColumn(described, column) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const target = described.foreign_keys.find((k) => k.column === column.name);
  button.type = "button";
  button.textContent = column.name;
  button.title = "Put the name into the question";
  button.addEventListener("click", () => insert(column.name));
  item.append(button, ` ${column.type.toLowerCase()}${target ? ` → ${target.table}` : ""}`);
  return item;
}

function insert(word) {
  const box = $("question");
  const space = box.value && !box.value.endsWith(" ") ? " " : "";
  box.setRangeText(space + word, box.value.length, box.value.length, "end");
  box.focus();
}

// History, in this browser alone

const history = () => forGood.object(HISTORY, []);

function remember(question, sql) {
  const entry = { question, sql, database: $("database").value };
  const older = history().filter((e) => e.question !== question || e.sql !== sql || e.database !== entry.database);
  forGood.set(HISTORY, JSON.stringify([entry, ...older].slice(0, 100)));
  drawHistory();
}

function drawHistory() {
  const items = history().map((entry) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = entry.question || entry.sql;
    button.addEventListener("click", () => again(entry));
    item.append(button);
    return item;
  });
  $("history").replaceChildren(...items);
  $("forget").hidden = !items.length;
}

async function again(entry) {
  if ([...$("database").options].some((o) => o.value === entry.database) && $("database").value !== entry.database) {
    $("database").value = entry.database;
    await loadSchema().catch(trouble);
  }
  $("side").classList.remove("open");
  thread.reset($("database").value);
  thread.add({ question: entry.question || entry.sql, sql: entry.sql });
  showAgain(entry);
}

// Beginning

async function open() {
  const { data, keeps_feedback: keepsFeedback } = await get("/v1/databases");
  state.keepsFeedback = keepsFeedback;
  $("database").replaceChildren(...data.map((d) => new Option(d.id, d.id)));
  if (!data.length) throw new Trouble("This server has no database.", "Start it with openarctic serve --db NAME=FILE");
  await loadSchema();
  thread.restore($("database").value);
  drawThread();
  $("login").hidden = true;
}

function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  $("theme").textContent = isDark ? "Light" : "Dark";
  $("theme").onclick = () => {
    forGood.set(THEME, isDark ? "light" : "dark");
    paint(isDark ? "light" : "dark");
  };
}

const copied = async (button, content) => {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(content);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => (button.textContent = before), 1500);
};

$("ask").addEventListener("submit", (event) => (event.preventDefault(), askQuestion()));
$("login").addEventListener("submit", (event) => (event.preventDefault(), key.set($("key").value.trim()), trouble(null), open().catch(trouble)));
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), askQuestion());
});
$("sql").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), runSql());
});
$("sql").addEventListener("input", () => ($("edited").textContent = $("sql").value.trim() === state.sql ? "" : "Changed: Run checks and runs it."));
$("run").addEventListener("click", () => runSql());
$("new").addEventListener("click", newQuestion);
$("stop").addEventListener("click", () => state.work?.abort());
$("up").addEventListener("click", () => judge("up"));
$("down").addEventListener("click", () => judge("down"));
$("correct").addEventListener("click", () => judge("down", state.sql));
$("copy").addEventListener("click", () => copied($("copy"), table.asText()));
$("copy-sql").addEventListener("click", () => copied($("copy-sql"), $("sql").value));
for (const format of ["csv", "parquet"]) {
  $(format).addEventListener("click", () => save(format));
}
for (const name of ["table", "chart"]) {
  $(`tab-${name}`).addEventListener("click", () => select(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const other = name === "table" ? "chart" : "table";
      if (!$(`tab-${other}`).hidden) select(other, true);
    }
  });
}
$("database").addEventListener("change", () => {
  newQuestion();
  loadSchema().catch(trouble);
});
$("search").addEventListener("input", drawSchema);
$("forget").addEventListener("click", () => (forGood.remove(HISTORY), drawHistory()));
$("browse").addEventListener("click", () => $("browse").setAttribute("aria-expanded", String($("side").classList.toggle("open"))));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea, select")) (event.preventDefault(), $("question").focus());
});
paint(forGood.get(THEME));
drawHistory();
open().catch(trouble);
$("question").focus();
