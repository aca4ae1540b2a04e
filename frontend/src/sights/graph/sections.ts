// A long graph is cut across where few values pass, and each section is laid out by itself: layered
// layout takes time that grows faster than the graph, and models repeat the same block many times.
// A value that is used further down enters and leaves a section at a gate, so that it is one line
// however many use it.

import { layersOf } from "./layers";
import type { Picture } from "./picture";

/** What is to be laid out at once: places in it are its own. */
export interface Plan {
  widths: number[];
  heights: number[];
  /** How many of the first are gates at the top, and how many of the last are gates at the bottom. */
  top: number;
  bottom: number;
  edges: [from: number, to: number][];
}

export interface Section {
  plan: Plan;
  boxes: number[];
  /** The sources at its gates. */
  enters: number[];
  leaves: number[];
  /** What the edges of the plan are: a link, or -1 for the way of a source to the lower gate. */
  links: number[];
  sources: number[];
  /** Whether a layer of it is so wide that a layered layout is of no use. */
  wide: boolean;
}

export interface Cut {
  sections: Section[];
  /** Links that pass no gate: those that close a cycle, and the far ones where too many pass. */
  direct: number[];
}

const WHOLE = 160;
const LEAST = 60;
const GOOD = 250;
const MOST = 300;
const FEW = 4;
const MANY = 64;
const CROWD = 16;
const WIDE = 300;

/** Choose where to cut: the layer that each section ends before. */
function boundsOf(sizes: Int32Array, passing: Int32Array): number[] {
  const bounds: number[] = [];
  let left = sizes.reduce((sum, size) => sum + size, 0);
  let start = 0;
  while (left > WHOLE) {
    let best = -1;
    let fewest = Infinity;
    let boxes = 0;
    let taken = 0;
    for (let at = start; at < sizes.length - 1; at += 1) {
      boxes += sizes[at]!;
      if (best >= 0 && ((boxes > MOST && fewest <= MANY) || (boxes > GOOD && fewest <= FEW))) break;
      if (boxes < LEAST || passing[at]! >= fewest) continue;
      fewest = passing[at]!;
      best = at + 1;
      taken = boxes;
    }
    if (best < 0) break;
    bounds.push(best);
    left -= taken;
    start = best;
  }
  return [...bounds, sizes.length];
}

/** Cut a picture into sections. */
export function cut(picture: Picture): Cut {
  const { boxes, links, sources } = picture;
  const { layer, back, count } = layersOf(boxes.length, links, (box) => boxes[box]!.kind === "input");
  const sizes = new Int32Array(Math.max(1, count));
  for (const each of layer) sizes[each]! += 1;
  const last = new Int32Array(sources.length).fill(-1);
  links.forEach((link, at) => {
    if (!back[at]) last[link.source] = Math.max(last[link.source]!, layer[link.to]!);
  });
  const passing = new Int32Array(sizes.length + 1);
  sources.forEach((source, at) => {
    if (last[at]! < 0) return;
    passing[layer[source.from]!]! += 1;
    passing[last[at]!]! -= 1;
  });
  for (let at = 1; at < passing.length; at += 1) passing[at]! += passing[at - 1]!;

  const bounds = boundsOf(sizes, passing);
  const sectionOf = new Int32Array(sizes.length);
  for (let at = 0, section = 0; at < sizes.length; at += 1) {
    if (at >= bounds[section]!) section += 1;
    sectionOf[at] = section;
  }
  const place = (box: number) => sectionOf[layer[box]!]!;

  // Where a crowd passes a bound, those that go far are drawn straight, under everything.
  const crowded = new Int32Array(bounds.length + 1);
  bounds.forEach((bound, at) => (crowded[at + 1] = crowded[at]! + (passing[bound - 1]! > CROWD ? 1 : 0)));
  const far = (at: number) => {
    const from = place(sources[at]!.from);
    const to = sectionOf[Math.max(0, last[at]!)]!;
    return to - from > 2 && crowded[to]! - crowded[from]! > 0;
  };

  const direct: number[] = [];
  const within: number[][] = bounds.map(() => []);
  const lastSection = new Int32Array(sources.length).fill(-1);
  links.forEach((link, at) => {
    const from = place(link.from);
    const to = place(link.to);
    if (link.from === link.to || to < from || (to !== from && (back[at] || far(link.source)))) direct.push(at);
    else {
      within[to]!.push(at);
      lastSection[link.source] = Math.max(lastSection[link.source]!, to);
    }
  });
  const members: number[][] = bounds.map(() => []);
  boxes.forEach((_, box) => members[place(box)]!.push(box));
  const enters: number[][] = bounds.map(() => []);
  sources.forEach((source, at) => {
    for (let section = place(source.from) + 1; section <= lastSection[at]!; section += 1) enters[section]!.push(at);
  });

  const sections = bounds.map((_, at): Section => {
    const leaves = enters[at + 1] ?? [];
    const gates = enters[at]!;
    const inner = members[at]!;
    const local = new Map(inner.map((box, index) => [box, gates.length + index]));
    const entry = new Map(gates.map((source, index) => [source, index]));
    const startOf = (source: number) => entry.get(source) ?? local.get(sources[source]!.from)!;
    const edges: [number, number][] = [];
    const named: number[] = [];
    const sourceOf: number[] = [];
    for (const link of within[at]!) {
      edges.push([startOf(links[link]!.source), local.get(links[link]!.to)!]);
      named.push(link);
      sourceOf.push(links[link]!.source);
    }
    leaves.forEach((source, index) => {
      edges.push([startOf(source), gates.length + inner.length + index]);
      named.push(-1);
      sourceOf.push(source);
    });
    const gate = 2;
    return {
      plan: {
        widths: [...gates.map(() => gate), ...inner.map((box) => boxes[box]!.width), ...leaves.map(() => gate)],
        heights: [...gates.map(() => gate), ...inner.map((box) => boxes[box]!.height), ...leaves.map(() => gate)],
        top: gates.length,
        bottom: leaves.length,
        edges,
      },
      boxes: inner,
      enters: gates,
      leaves,
      links: named,
      sources: sourceOf,
      wide: gates.length > WIDE || sizes.subarray(bounds[at - 1] ?? 0, bounds[at]).some((size) => size > WIDE),
    };
  });
  return { sections, direct };
}
