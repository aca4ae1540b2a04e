// Searching the names: words that all have to occur, in any order and case; a word with * or ? is a
// pattern for the whole name.

/** Match * and ? without ever going back more than one step, so that no pattern is slow. */
export function globbed(pattern: string, text: string): boolean {
  let [p, t, star, mark] = [0, 0, -1, 0];
  while (t < text.length) {
    if (p < pattern.length && (pattern[p] === "?" || (pattern[p] === text[t] && pattern[p] !== "*"))) {
      p += 1;
      t += 1;
    } else if (pattern[p] === "*") {
      star = p;
      mark = t;
      p += 1;
    } else if (star >= 0) {
      p = star + 1;
      mark += 1;
      t = mark;
    } else return false;
  }
  while (pattern[p] === "*") p += 1;
  return p === pattern.length;
}

/** Mark the names that are searched for, given in lower case; null where all are. */
export function hitsOf(lowered: readonly string[], query: string): Uint8Array | null {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return null;
  const hits = new Uint8Array(lowered.length);
  lowered.forEach((name, i) => {
    hits[i] = words.every((word) => (/[*?]/.test(word) ? globbed(word, name) : name.includes(word))) ? 1 : 0;
  });
  return hits;
}
