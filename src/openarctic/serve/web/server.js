// The server's routes. Every failure is an error with `message` and `hint`, for people.
const KEY = "openarctic.key";

export class Trouble extends Error {
  constructor(message, hint = "", status = 0) {
    super(message);
    Object.assign(this, { hint, status });
  }
}

export const key = {
  set: (value) => sessionStorage.setItem(KEY, value),
  headers: () => (sessionStorage.getItem(KEY) ? { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {}),
};

async function answer(path, body, signal) {
  let reply;
  try {
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    reply = await fetch(path, { ...sent, signal, headers: { "Content-Type": "application/json", ...key.headers() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached.", "Is openarctic serve still running?");
  }
  if (!reply.ok) throw await troubleOf(reply);
  return reply;
}

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

export const get = async (path) => (await answer(path)).json();
export const say = (body) => answer("/v1/feedback", body);
export const query = async (body, signal) => (await answer("/v1/query", body, signal)).json();

export async function download(body) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await answer("/v1/query", body)).blob());
  link.download = `result.${body.format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Events of /v1/ask as they come: [name, data].
export async function* ask(body, signal) {
  const reader = (await answer("/v1/ask", body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const [name, data] = part.split("\n");
      yield [name.replace("event: ", ""), JSON.parse(data.replace("data: ", ""))];
    }
  }
}
