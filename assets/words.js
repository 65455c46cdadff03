// Stands before each script: WORDS are its sentences in the page's language, by their English. Numbers as that language writes them.
function say(sentence, values = {}) {
  const spell = (value) => (typeof value === "number" ? value.toLocaleString(document.documentElement.lang) : value);
  return (WORDS[sentence] ?? sentence).replace(/\{(\w+)\}/g, (field, name) => (name in values ? spell(values[name]) : field));
}

