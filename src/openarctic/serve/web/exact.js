// JSON with whole numbers of any size: those that a Number would round are BigInts. Every browser's JSON.parse rounds them.

// Stands before such a number while it is a text: no text of a database can have guessed it.
const MARK = `exact ${String(Math.random()).slice(2)} `;
// Texts are parts too, so that digits in them stay as they are.
const PARTS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

const isRounded = (part) => /^-?\d{16,}$/.test(part) && String(Number(part)) !== part;
const isMarked = (value) => typeof value === "string" && value.startsWith(MARK);

export function parse(json) {
  if (!/\d{16}/.test(json)) return JSON.parse(json);
  const marked = json.replace(PARTS, (part) => (isRounded(part) ? `"${MARK}${part}"` : part));
  return JSON.parse(marked, (_, value) => (isMarked(value) ? BigInt(value.slice(MARK.length)) : value));
}

export function write(value) {
  const json = JSON.stringify(value, (_, part) => (typeof part === "bigint" ? MARK + part : part));
  return json.replace(new RegExp(`"${MARK}(-?\\d+)"`, "g"), "$1");
}
