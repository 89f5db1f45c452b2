/** What the server says of model, draft and gallery, and who wants to know when it changes. */

import { address, get, post } from "./api.js";
import { throttled, trying } from "./dom.js";

const listeners = { state: [], scores: [], lessons: [], progress: [], drift: [] };
let known = { scores: "", lessons: "", progress: "", drift: "" };

export const store = { state: null, changes: null };

/** Be told: `state` of every answer, `scores` when images may score otherwise, `lessons` when the bank or the draft
 * changed, `progress` when images came, went or were scored, `drift` when they were compared with the references. */
export function on(kind, listener) {
  listeners[kind].push(listener);
}

/** Take over a state that a call answered with. */
export function take(state) {
  store.state = state;
  const { image, pixel } = state.thresholds;
  const steps = state.draft.steps.map((step) => step.id);
  const lessons = JSON.stringify([state.revision, steps, state.draft.can_redo]);
  const now = {
    lessons,
    scores: JSON.stringify([lessons, image, pixel, state.region]),
    progress: JSON.stringify(state.gallery),
    drift: JSON.stringify(state.drift),
  };
  const changed = Object.keys(now).filter((kind) => now[kind] !== known[kind]);
  known = now;
  for (const kind of ["state", ...changed]) for (const listener of listeners[kind]) listener(state);
}

/** Ask for the state now. */
export async function refresh() {
  const state = await trying(() => get("/api/state"));
  if (state) take(state);
}

/** Make a step of the draft and take over what became of it; undefined where the server refuses. */
export async function step(name, body = {}) {
  const answer = await trying(() => post(`/api/draft/${name}`, body));
  if (answer === undefined) return undefined;
  if (answer.draft) take(answer);
  else await refresh();
  return answer;
}

/** Follow what the server tells; a broken line is tried again by the browser. */
export function follow() {
  const soon = throttled(400, refresh);
  const source = new EventSource(address("/api/events"));
  source.addEventListener("message", soon);
  source.addEventListener("open", soon);
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
