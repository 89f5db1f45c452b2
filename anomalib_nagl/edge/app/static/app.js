/** The page: its parts are begun here, and the address says which of them is seen. */

import { get } from "./api.js";
import { $, el, fillIcons, say, throttled, trying } from "./dom.js";
import { show, startInspect } from "./inspect.js";
import { follow, on, refresh, step, store } from "./store.js";
import { startUpload } from "./upload.js";
import { startAcceptance } from "./acceptance.js";
import { startDrift } from "./drift.js";
import { startExport } from "./export.js";
import { startHistory } from "./history.js";
import { startReferences } from "./references.js";
import { startThresholds } from "./thresholds.js";
import { windowWords } from "./windows.js";
import { done, fillWords, loadWords, t } from "./words.js";

const VIEWS = ["inspect", "references", "thresholds", "acceptance", "drift", "history", "export"];
const HELP = [
  "gallery",
  "enter",
  "n",
  "a",
  "s",
  "b",
  "e",
  "l",
  "v",
  "size",
  "arrows",
  "space",
  "undo",
  "clear",
  "zoom",
];
const CHANGES = ["found", "alarms", "lost", "cleared", "rising", "falling"];
const shown = {}; // what a view does when it is seen

async function start() {
  await loadWords();
  fillWords(document);
  fillIcons(document);
  shown.references = startReferences($("view-references"));
  shown.thresholds = startThresholds($("view-thresholds"));
  shown.acceptance = startAcceptance($("view-acceptance"));
  shown.drift = startDrift($("view-drift"), $("drifted"));
  shown.history = startHistory($("view-history"));
  shown.export = startExport($("view-export"));
  startDraft();
  startHelp();
  on("state", named);
  await refresh();
  startInspect();
  startUpload();
  addEventListener("hashchange", route);
  route();
  follow();
}

function named({ model }) {
  $("model").textContent = t("brand", model);
  const [height, width] = model.input;
  const backbone = model.backbone.replace(/ [0-9a-f]{16}$/, ""); // without the fingerprint of its weights
  const words = [t("model", { ...model, backbone, input: `${width} × ${height}` })];
  if (model.windows) words.push(windowWords(model.windows));
  $("model").title = $("about").textContent = words.join(" ");
  document.title = t("title", { model: model.name });
}

function route() {
  const wanted = location.hash.split("/")[1];
  const view = VIEWS.includes(wanted) ? wanted : "inspect";
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view;
  for (const link of $("tabs").children) {
    if (link.getAttribute("href") === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const id = location.hash.split("/")[2];
  if (view === "inspect" && id) show({ id: decodeURIComponent(id) });
  shown[view]?.();
}

function startDraft() {
  for (const name of ["undo", "redo", "discard", "save"]) {
    $(name).addEventListener("click", async () => {
      const steps = store.state.draft.steps.length;
      if (await step(name)) say(t(`draft.done.${name}`, { n: steps }));
    });
  }
  const compare = throttled(700, changes);
  on("state", (state) => {
    const { steps, can_undo: back, can_redo: again } = state.draft;
    $("draft").classList.toggle("some", steps.length > 0);
    $("draft-title").textContent = steps.length
      ? t("draft.steps", { n: steps.length, last: done("step", steps.at(-1).words, steps.at(-1).text) })
      : t("draft.none");
    $("undo").disabled = !back;
    $("redo").disabled = !again;
    $("discard").disabled = !steps.length && !again;
    $("save").disabled = !steps.length;
    $("refused").hidden = !state.refused;
    $("refused").textContent = state.refused ? t("draft.refused", { sentence: done("error", state.refused_words, state.refused) }) : "";
  });
  on("lessons", compare);
  on("progress", compare);
  on("scores", compare);
}

/** What the draft changes in the gallery, as the server says it. */
async function changes() {
  const some = store.state.draft.steps.length > 0;
  const found = some ? await trying(() => get("/api/changes")) : null;
  store.changes = found ?? null;
  $("draft-changes").textContent = found ? words(found) : "";
  const set = some ? await trying(() => get("/api/acceptance")) : null;
  const worse = set?.worse.length ?? 0;
  $("draft-worse").hidden = !worse;
  $("draft-worse").textContent = worse ? t("draft.worse", { n: worse }) : "";
}

function words(found) {
  const some = CHANGES.filter((kind) => found[kind]).map((kind) => t(`changes.${kind}`, { n: found[kind] }));
  const said = some.length ? t("changes", { list: some.join(", ") }) : t("changes.none");
  return found.waiting ? `${said} ${t("draft.waiting", { n: found.waiting })}` : said;
}

function startHelp() {
  $("help").addEventListener("click", () => $("keys").showModal());
  $("keys-list").append(
    ...HELP.flatMap((name) => [
      el("dt", {}, el("kbd", { text: t(`help.${name}.key`) })),
      el("dd", { text: t(`help.${name}`) }),
    ]),
  );
}

start().catch((error) => say(error.message, "error"));
