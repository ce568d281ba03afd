// The server's routes. Every failure is an error with `message` and `hint`, for people.
import { parse } from "./exact.js";
import { inTab } from "./memory.js";

const KEY = "openarctic.key";

export class Trouble extends Error {
  constructor(message, hint = "", status = 0) {
    super(message);
    Object.assign(this, { hint, status });
  }
}

export const key = {
  set: (value) => inTab.set(KEY, value),
  headers: () => (inTab.get(KEY) ? { Authorization: `Bearer ${inTab.get(KEY)}` } : {}),
};

async function answer(path, body, signal) {
  let reply;
  try {
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    reply = await fetch(path, { ...sent, signal, headers: { "Content-Type": "application/json", ...key.headers() } });
  } catch (error) {
    throw lost(error, "The server cannot be reached.", "Is openarctic serve still running?");
  }
  if (!reply.ok) throw await troubleOf(reply);
  return reply;
}

// A browser's own words for a broken connection are no help. That somebody pressed Stop is no trouble.
const lost = (error, message, hint) => (error.name === "AbortError" ? error : new Trouble(message, hint));

const brokenOff = (error) => lost(error, "The connection broke before the answer was whole.", "Ask again. If it stays so, look at what openarctic serve says.");

// What is read of a reply after its status: `read` gives a promise.
const whole = async (reply, read) => {
  try {
    return await read(reply);
  } catch (error) {
    throw brokenOff(error);
  }
};

async function troubleOf(reply) {
  let told = {};
  try {
    told = (await reply.json()).error ?? {};
  } catch {
    // not ours: a proxy's
  }
  const wait = reply.headers.get("Retry-After");
  return new Trouble(told.message ?? `The server answered ${reply.status}.`, told.hint ?? (wait ? `Try again in ${wait} s.` : ""), reply.status);
}

const object = (reply) => whole(reply, async (r) => parse(await r.text()));

export const get = async (path) => object(await answer(path));
export const say = (body) => answer("/v1/feedback", body);
export const query = async (body, signal) => object(await answer("/v1/query", body, signal));

// Gives whether the file holds all rows.
export async function download(body) {
  const reply = await answer("/v1/query", body);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await whole(reply, (r) => r.blob()));
  link.download = `result.${body.format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return reply.headers.get("X-Truncated") !== "true";
}

// Events of /v1/ask as they come: [name, data]. The last is done or error; where it does not come, the connection broke.
export async function* ask(body, signal) {
  const reader = (await answer("/v1/ask", body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let name = "";
  while (name !== "done" && name !== "error") {
    const { value, done } = await whole(reader, (r) => r.read());
    if (done) throw brokenOff(new Error("no last event"));
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const [first, data] = part.split("\n");
      name = first.replace("event: ", "");
      yield [name, parse(data.replace("data: ", ""))];
    }
  }
}
