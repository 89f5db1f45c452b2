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

/** Whether there are words of a key. */
export const told = (key) => key in words;

/** Put words where the markup asks for them: text, accessible name, title or placeholder. */
export function fillWords(root) {
  for (const one of root.querySelectorAll("[data-t]")) one.append(t(one.dataset.t));
  for (const one of root.querySelectorAll("[data-t-label]")) one.setAttribute("aria-label", t(one.dataset.tLabel));
  for (const one of root.querySelectorAll("button[data-t-label]")) one.title = t(one.dataset.tLabel);
  for (const one of root.querySelectorAll("[data-t-title]")) one.title = t(one.dataset.tTitle);
  for (const one of root.querySelectorAll("[data-t-placeholder]")) one.placeholder = t(one.dataset.tPlaceholder);
}
