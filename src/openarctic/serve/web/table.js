// Ten thousand rows without stutter: only those in sight are in the page, between two gaps as high as the rest.
import { write } from "./exact.js";

const ROW = 30; // pixels, as in style.css
const SPARE = 20;

export class Table {
  constructor(scroller, head, body) {
    Object.assign(this, { scroller, head, body, columns: [], rows: [], sorted: null });
    scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw(true)).observe(scroller);
  }

  show(columns, rows) {
    this.columns = columns;
    this.rows = rows.map((row, place) => ({ row, place }));
    this.sorted = null;
    this.numeric = columns.map((_, i) => rows.some((row) => row[i] !== null) && rows.every((row) => row[i] === null || isNumber(row[i])));
    this.scroller.querySelector("table").setAttribute("aria-rowcount", rows.length + 1); // with the head
    this.drawHead();
    this.scroller.scrollTo(0, 0);
    this.draw(true);
  }

  drawHead() {
    const cells = this.columns.map((name, i) => {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      const order = this.sorted?.column === i ? this.sorted.order : null;
      button.type = "button";
      button.textContent = name + (order === null ? "" : order > 0 ? " ▲" : " ▼");
      button.addEventListener("click", () => this.sort(i));
      cell.scope = "col";
      if (this.numeric[i]) cell.className = "number";
      cell.setAttribute("aria-sort", order === null ? "none" : order > 0 ? "ascending" : "descending");
      cell.append(button);
      return cell;
    });
    this.head.replaceChildren(...cells);
  }

  sort(column) {
    const order = this.sorted?.column === column ? -this.sorted.order : 1;
    this.sorted = { column, order };
    const compare = new Intl.Collator(undefined, { numeric: true }).compare;
    this.rows.sort((a, b) => {
      const [x, y] = [a.row[column], b.row[column]];
      if (x === null || y === null) return x === y ? a.place - b.place : x === null ? 1 : -1; // NULL last, either way
      const difference = isNumber(x) && isNumber(y) ? (x < y ? -1 : Number(x > y)) : compare(text(x), text(y));
      return difference * order || a.place - b.place;
    });
    this.drawHead();
    this.head.children[column].firstChild.focus();
    this.scroller.scrollTop = 0;
    this.draw(true);
  }

  draw(anew = false) {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(this.rows.length, first + Math.ceil(this.scroller.clientHeight / ROW) + 2 * SPARE);
    if (!anew && first === this.first && last === this.last) return;
    Object.assign(this, { first, last });
    const rows = this.rows.slice(first, last).map(({ row }, i) => this.drawRow(row, first + i + 2)); // the head is row 1
    this.body.replaceChildren(this.gap(first), ...rows, this.gap(this.rows.length - last));
  }

  drawRow(row, number) {
    const line = document.createElement("tr");
    line.setAttribute("aria-rowindex", number);
    line.append(...row.map((value, i) => {
      const cell = document.createElement("td");
      cell.textContent = text(value);
      if (value === null) cell.className = "none";
      else if (this.numeric[i]) cell.className = "number";
      if (cell.textContent.length > 40) cell.title = cell.textContent;
      return cell;
    }));
    return line;
  }

  gap(rows) {
    const line = document.createElement("tr");
    const cell = document.createElement("td");
    line.className = "gap";
    line.setAttribute("aria-hidden", "true");
    cell.colSpan = Math.max(1, this.columns.length);
    cell.style.height = `${rows * ROW}px`;
    line.append(cell);
    return line;
  }

  asText() {
    const lines = [this.columns, ...this.rows.map(({ row }) => row)];
    return lines.map((row) => row.map((value) => (value === null ? "" : text(value).replace(/[\t\r\n]+/g, " "))).join("\t")).join("\n");
  }
}

export function text(value) {
  if (value === null) return "NULL";
  return typeof value === "object" ? write(value) : String(value);
}

const isNumber = (value) => typeof value === "number" || typeof value === "bigint";
