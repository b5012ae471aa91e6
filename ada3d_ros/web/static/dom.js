// Elements with text: what a model, a bag or a person wrote is never read as HTML.

export const byId = (id) => document.getElementById(id);

/** An element; `fields` are its properties, `attributes` those with a dash in their name. */
export function element(tag, fields = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export const button = (text, onclick, fields = {}) =>
  element("button", { type: "button", textContent: text, onclick, ...fields });

/** A sentence where it is seen; "" takes it away. */
export function tell(node, sentence) {
  node.textContent = sentence;
  if (sentence) node.scrollIntoView({ block: "nearest" });
}

/** Send JSON; gives the answer's fields. Throws an Error whose message is a sentence. */
export const post = (path, fields) =>
  getJson(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(fields),
  });

/** The fields of an answer in JSON. Throws an Error whose message is a sentence. */
export async function getJson(path, request = {}) {
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new Error("The page's server does not answer: is `ada3d web` still running?");
  }
  const text = await response.text();
  let told = {};
  try {
    told = JSON.parse(text);
  } catch {
    // a sentence of the guard
  }
  const refused = text.trim() || `The page's server refused (${response.status}).`;
  if (!response.ok || told.error) throw new Error(told.error || refused);
  return told;
}

export async function getBytes(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.arrayBuffer();
}

/** 17 ms, 1.2 s. */
export function duration(ms) {
  if (ms == null) return "";
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** A box by its label; some models give none. */
export const nameOf = (box) => box.label || "what is meant";

export const isOpen = (turn) => turn.state === "waiting" || turn.state === "running";
