// Rectangles whose areas are shares, as square as can be (Bruls, Huizing and van Wijk: Squarified
// treemaps, 2000): parts are laid out along the shorter side as long as that makes them squarer.

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Placed<Node> {
  node: Node;
  box: Box;
  /** 0 for the parts of the root. */
  level: number;
  /** Which part of the root it belongs to. */
  group: number;
  /** Whether its own parts are drawn in it. */
  open: boolean;
  /** Of a rectangle for those too small to draw: how many they are; else 0. */
  rest: number;
}

export interface Shares<Node> {
  size: (node: Node) => number;
  parts: (node: Node) => readonly Node[] | undefined;
}

/** Pixels of area below which parts are drawn together; within others, so that all get room. */
const LEAST = 12;
const LEAST_WITHIN = 120;
const MOST = 6000;
const HEAD = 16;

/** Lay sizes out, the largest first, so that they fill the box. */
export function squarified(sizes: readonly number[], box: Box): Box[] {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const boxes: Box[] = [];
  if (total <= 0) return boxes;
  const scale = (box.width * box.height) / total;
  let { x, y, width, height } = box;
  let start = 0;
  while (start < sizes.length) {
    const side = Math.min(width, height);
    const largest = (sizes[start] as number) * scale;
    let end = start;
    let sum = 0;
    let worst = Infinity;
    while (end < sizes.length) {
      const area = (sizes[end] as number) * scale;
      const next = sum + area;
      const ratio = Math.max((side * side * largest) / (next * next), (next * next) / (side * side * area));
      if (ratio > worst) break;
      [worst, sum] = [ratio, next];
      end += 1;
    }
    if (end === start) break;
    const thick = side > 0 ? sum / side : 0;
    let along = 0;
    for (let i = start; i < end; i += 1) {
      const long = thick > 0 ? ((sizes[i] as number) * scale) / thick : 0;
      boxes.push(width >= height ? { x, y: y + along, width: thick, height: long } : { x: x + along, y, width: long, height: thick });
      along += long;
    }
    if (width >= height) [x, width] = [x + thick, Math.max(0, width - thick)];
    else [y, height] = [y + thick, Math.max(0, height - thick)];
    start = end;
  }
  return boxes;
}

/** Lay out what a node consists of, and what that consists of, as far as there is room. */
export function placed<Node>(root: Node, shares: Shares<Node>, box: Box, deepest = 5): Placed<Node>[] {
  const found: Placed<Node>[] = [];
  const fill = (node: Node, into: Box, level: number, group: number) => {
    const parts = (shares.parts(node) ?? []).filter((part) => shares.size(part) > 0);
    const sizes = new Map(parts.map((part) => [part, shares.size(part)]));
    const sizeOf = (part: Node) => sizes.get(part) as number;
    parts.sort((one, other) => sizeOf(other) - sizeOf(one));
    const total = parts.reduce((sum, part) => sum + sizeOf(part), 0);
    const scale = (into.width * into.height) / (total || 1);
    let shown = parts.findIndex((part) => sizeOf(part) * scale < (level === 0 ? LEAST : LEAST_WITHIN));
    shown = Math.min(shown < 0 ? parts.length : shown, Math.max(0, MOST - found.length));
    const rest = parts.slice(shown);
    const areas = parts.slice(0, shown).map(sizeOf);
    if (rest.length) areas.push(rest.reduce((sum, part) => sum + sizeOf(part), 0));
    squarified(areas, into).forEach((place, i) => {
      const many = i === shown ? rest.length : 0;
      const part = parts[i] as Node;
      const room = !many && level + 1 < deepest && place.width > 40 && place.height > HEAD + 14;
      const open = room && shares.parts(part) !== undefined;
      found.push({ node: part, box: place, level, group: level === 0 ? i : group, open, rest: many });
      if (open) {
        const inner = { x: place.x + 2, y: place.y + HEAD, width: place.width - 4, height: place.height - HEAD - 2 };
        fill(part, inner, level + 1, level === 0 ? i : group);
      }
    });
  };
  if (box.width > 0 && box.height > 0) fill(root, box, 0, 0);
  return found;
}
