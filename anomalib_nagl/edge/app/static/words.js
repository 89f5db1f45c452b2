/** Every word that the page shows comes from one file, so that another language is another file. */

let words = {};
let plural = new Intl.PluralRules("en");

/** Fetch the words of a language. */
export async function loadWords(language = "en") {
  words = await (await fetch(`/static/words.${language}.json`)).json();
  plural = new Intl.PluralRules(language);
  document.documentElement.lang = language;
}

/** The words of a key, `{name}` replaced by a value; with `n`, those of `key.one` or `key.other` where there are such. */
export function t(key, values = {}) {
  const numbered = values.n === undefined ? key : `${key}.${plural.select(values.n)}`;
  const text = words[numbered] ?? words[`${key}.other`] ?? words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (all, name) => {
    const value = values[name];
    return value === undefined
      ? all
      : typeof value === "number"
        ? value.toLocaleString(document.documentElement.lang)
        : value;
  });
}

/** What was done: `words` of the server are a key below one of the page's, and values; else the server's own sentence. */
export function done(kind, words, sentence) {
  if (!words || !told(`${kind}.${words.key}`)) return sentence;
  const change = words.change === undefined ? undefined : done(kind, words.change, words.summary);
  return t(`${kind}.${words.key}`, { ...words, change });
}

/** Whether there are words of a key. */
export const told = (key) => key in words || `${key}.other` in words;

/** Put words where the markup asks for them: text, accessible name, title or placeholder. */
export function fillWords(root) {
  for (const one of root.querySelectorAll("[data-t]")) one.append(t(one.dataset.t));
  for (const one of root.querySelectorAll("[data-t-label]")) one.setAttribute("aria-label", t(one.dataset.tLabel));
  for (const one of root.querySelectorAll("button[data-t-label]")) one.title = t(one.dataset.tLabel);
  for (const one of root.querySelectorAll("[data-t-title]")) one.title = t(one.dataset.tTitle);
  for (const one of root.querySelectorAll("[data-t-placeholder]")) one.placeholder = t(one.dataset.tPlaceholder);
}
