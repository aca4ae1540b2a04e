// Names and text from files, made fit to be shown: they may be hostile, so what is invisible or turns
// the reading direction is told as a code, and what is very long is cut.

// Control characters, marks of direction, invisible spaces and joiners, halves of surrogates, and what
// is no character of XML.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

function code(letter: string): string {
  if (letter === "\n") return "\\n";
  if (letter === "\t") return "\\t";
  return `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** Text as it is shown: at most so many characters, the unseen ones as codes such as \u202e. */
export function plain(text: string, most = 400): string {
  const cut = text.length > most ? `${text.slice(0, most)}… (${text.length.toLocaleString("en-US")} characters)` : text;
  return cut.replace(UNSEEN, code);
}

/** What to sort a name by, so that layer.10 comes after layer.9. */
export function order(name: string): string {
  return name.slice(0, 400).replace(/\d+/g, (digits) => digits.padStart(12, "0"));
}

/** The end of a dotted or slashed name, which says most of it. */
export function lastOf(name: string, most = 18): string {
  const last = name.slice(-200).split(/[./:]/).filter(Boolean).pop() ?? name;
  return plain(last.length > most ? `…${last.slice(1 - most)}` : last);
}
