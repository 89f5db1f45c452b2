/** Calls of the server. The session tells it whose draft is meant; a tab keeps its session when it is loaded again. */

import { done } from "./words.js";

const KEY = "nagl.session";

function makeId() {
  // Not crypto.randomUUID: browsers offer that on https and on this machine alone.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const session = sessionStorage.getItem(KEY) ?? makeId();
sessionStorage.setItem(KEY, session);

/** The address of a call for tags and downloads, which cannot send a header. */
export function address(path, query = {}) {
  const all = new URLSearchParams({ ...query, session });
  return `${path}?${all}`;
}

/** The bytes that a call answers with, as a Blob; an Error with the server's sentence otherwise. */
export async function getBlob(path, query = {}) {
  return (await call(address(path, query), {})).blob();
}

/** What a call answers with. */
export async function get(path, query = {}) {
  const text = new URLSearchParams(query).toString();
  return (await call(text ? `${path}?${text}` : path, {})).json();
}

/** What a call that changes something answers with. */
export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** Hand over an image; answers with its id. */
export async function upload(file) {
  const headers = {
    "Content-Type": file.type || "image/unknown",
    "X-Name": encodeURIComponent(file.name),
    "X-Changed": String(file.lastModified),
  };
  return (await call("/api/images", { method: "POST", headers, body: file })).json();
}

async function call(path, options) {
  const answer = await fetch(path, { ...options, headers: { ...options.headers, "X-Nagl-Session": session } });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const error = new Error(done("error", said.words, said.error) ?? `${answer.status} ${answer.statusText}`);
  error.status = answer.status;
  throw error;
}
