// The colours of the style sheet, for what is drawn rather than styled.

import { CATEGORIES, type Category } from "./categories";

export interface Colours {
  paper: string;
  raised: string;
  ink: string;
  soft: string;
  line: string;
  accent: string;
  edge: string;
  /** Text on the colour of a category. */
  on: string;
  category: Record<Category, string>;
}

/** Read the colours as they are now; a variable may hold light-dark(), which only a property resolves. */
export function coloursIn(element: HTMLElement): Colours {
  const probe = document.createElement("span");
  probe.hidden = true;
  probe.style.forcedColorAdjust = "none"; // Colours are not forced upon canvases.
  element.append(probe);
  const read = (name: string) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const colours: Colours = {
    paper: read("paper"),
    raised: read("raised"),
    ink: read("ink"),
    soft: read("soft"),
    line: read("line"),
    accent: read("accent"),
    edge: read("graph-edge"),
    on: read("graph-on"),
    category: Object.fromEntries(CATEGORIES.map((name) => [name, read(`graph-${name}`)])) as Record<Category, string>,
  };
  probe.remove();
  return colours;
}
