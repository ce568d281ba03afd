// The conversation so far: what the next question may be about. It is kept in this tab alone, and the server keeps nothing.
import { inTab } from "./memory.js";

const KEY = "openarctic.thread";
const MOST = 20;
const FIELDS = ["question", "sql", "read_as", "confidence", "calibrated"];

export class Thread {
  // `list` is an <ol>; `onBack` is called with the turn that somebody goes back to.
  constructor(list, onBack) {
    Object.assign(this, { list, onBack, database: "", turns: [], askedBack: null });
  }

  // The turns of an earlier load of this tab, if they are about the same database.
  restore(database) {
    const kept = inTab.object(KEY, null);
    this.turns = kept?.database === database ? kept.turns : [];
    this.database = database;
    this.draw();
  }

  // What a question is sent with.
  get context() {
    const asked = this.askedBack ? { clarification: this.askedBack } : {};
    return { history: this.turns, clarify: true, ...asked };
  }

  add(told) {
    this.turns = [...this.turns, Object.fromEntries(FIELDS.filter((f) => f in told).map((f) => [f, told[f]]))].slice(-MOST);
    this.keep();
  }

  // SQL that was changed by hand and ran stands for its question from now on.
  amend(sql) {
    const last = this.turns.at(-1);
    if (!last) return this.add({ question: sql, sql });
    this.turns = [...this.turns.slice(0, -1), { question: last.question, sql }];
    this.keep();
  }

  back(index) {
    this.turns = this.turns.slice(0, index + 1);
    this.askedBack = null;
    this.keep();
    this.onBack(this.turns[index]);
  }

  reset(database = this.database) {
    Object.assign(this, { turns: [], askedBack: null, database });
    this.keep();
  }

  keep() {
    inTab.set(KEY, JSON.stringify({ database: this.database, turns: this.turns }));
    this.draw();
  }

  draw() {
    this.list.replaceChildren(...this.turns.map((turn, index) => this.drawTurn(turn, index)));
  }

  drawTurn(turn, index) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = turn.question;
    button.title = "Go back to this answer";
    if (index === this.turns.length - 1) button.setAttribute("aria-current", "step");
    button.addEventListener("click", () => this.back(index));
    item.append(button);
    return item;
  }
}
