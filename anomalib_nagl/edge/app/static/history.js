/** What was done to the bank, in words, the newest first; and what of it can be taken back. */

import { get, post } from "./api.js";
import { date, el, icon, say, trying } from "./dom.js";
import { on, refresh, store } from "./store.js";
import { done, t } from "./words.js";

/** Build the view; returns what has to be done when it is seen. */
export function startHistory(view) {
  const drafted = el("ol", { class: "steps" });
  const draft = el("section", { class: "box drafted" }, el("h3", { text: t("history.draft") }), drafted);
  const rows = el("tbody");
  const head = ["revision", "what", "who", "when", "back"].map((name) =>
    el("th", { scope: "col", text: t(`history.${name}`) }),
  );
  view.append(
    el("div", { class: "head" }, el("h2", { id: "history-title", text: t("tabs.history") })),
    el("p", { class: "lead", text: t("history.lead") }),
    draft,
    el("table", { class: "table" }, el("thead", {}, el("tr", {}, ...head)), rows),
  );

  async function load() {
    if (view.hidden) return;
    const { steps } = store.state.draft;
    draft.hidden = !steps.length;
    drafted.replaceChildren(...steps.map((one) => el("li", { text: done("step", one.words, one.text) })));
    const all = await trying(() => get("/api/history"));
    if (!all) return;
    rows.replaceChildren(...all.map(row));
    if (!all.length) rows.append(el("tr", {}, el("td", { colSpan: 5, class: "empty", text: t("history.none") })));
  }

  on("lessons", load);
  return load;
}

function row(one) {
  const back = el(
    "button",
    {
      type: "button",
      class: "small",
      "aria-label": t("history.undo.label", { revision: one.revision }),
      on: { click: () => undo(one) },
    },
    icon("undo"),
    t("history.undo"),
  );
  return el(
    "tr",
    {},
    el("td", { class: "number", text: one.revision }),
    el("td", { text: sentence(one) }),
    el("td", { text: one.author ?? "" }),
    el("td", { text: date(one.at) }),
    el("td", {}, one.can_undo ? back : null),
  );
}

async function undo(one) {
  if (!(await trying(() => post(`/api/history/${one.revision}/undo`)))) return;
  say(t("history.undone", { summary: sentence(one) }));
  await refresh();
}

const sentence = ({ words, summary }) => done("history.did", words, summary);
