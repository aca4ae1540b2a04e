// The layout of a picture: its sections laid out one by one and set below each other.

import { Elk, weightOf, type Placed } from "./elk";
import type { Picture } from "./picture";
import { isPath, placeQuickly, straight } from "./quick";
import { cut, type Plan } from "./sections";

/** A line, or a part of one that several links share. */
export interface Piece {
  points: Float32Array;
  /** Whether it ends at a box. */
  arrow: boolean;
  source: number;
}

export interface Layout {
  xs: Float32Array;
  ys: Float32Array;
  pieces: Piece[];
  /** By link, its pieces. */
  ways: number[][];
  left: number;
  top: number;
  width: number;
  height: number;
  /** Whether a part of it was laid out plainly. */
  plain: boolean;
}

/** The weight of a section that is laid out plainly at once. */
const TOO_LARGE = 15_000;
/** Milliseconds that ELK is given for all sections: what is left then is laid out plainly. */
const PATIENCE = 5_000;
const GAP = 2;

function keyOf(plan: Plan): string {
  return [plan.top, plan.bottom, plan.widths, plan.heights, plan.edges].join(";");
}

function within<T>(work: Promise<T>, time: number): Promise<T> {
  let bell = 0;
  const rung = new Promise<never>((_, fail) => {
    bell = window.setTimeout(() => fail(new Error("the layout takes too long")), time);
  });
  return Promise.race([work, rung]).finally(() => clearTimeout(bell));
}

/** Lay out a picture; `hurried` is asked before each section whether a plain layout will do. */
export async function layOut(picture: Picture, report: (part: number) => void, signal: AbortSignal, hurried: AbortSignal): Promise<Layout> {
  const { sections, direct } = cut(picture);
  const { boxes, links } = picture;
  const xs = new Float32Array(boxes.length);
  const ys = new Float32Array(boxes.length);
  const pieces: Piece[] = [];
  const ways: number[][] = links.map(() => []);
  // By source, the pieces from its box down to the last gate, and the point of that gate.
  const trunks = new Map<number, { pieces: number[]; x: number; y: number }>();
  const known = new Map<string, Placed>();
  let elk = null as Elk | null;
  let failed = false;
  const until = performance.now() + PATIENCE;
  let plain = false;
  let y = 0;
  let left = Infinity;
  let right = -Infinity;
  const stopped = () => elk?.stop();
  signal.addEventListener("abort", stopped);
  hurried.addEventListener("abort", stopped);

  const placed = async (plan: Plan, wide: boolean): Promise<Placed> => {
    const key = keyOf(plan);
    let found = known.get(key);
    if (found) return found;
    if (isPath(plan)) found = placeQuickly(plan);
    else if (!failed && !wide && !hurried.aborted && weightOf(plan) <= TOO_LARGE) {
      try {
        elk ??= new Elk();
        found = await within(elk.place(plan), until - performance.now());
      } catch {
        elk?.stop();
        elk = null;
        failed = true;
      }
      signal.throwIfAborted();
    }
    if (!found) plain = true;
    found ??= placeQuickly(plan);
    known.set(key, found);
    return found;
  };

  try {
    let at = 0;
    for (const section of sections) {
      const { plan, enters, leaves } = section;
      // The gates in the order in which the section above leaves them.
      const order = enters.map((_, index) => index).sort((one, other) => trunks.get(enters[one]!)!.x - trunks.get(enters[other]!)!.x);
      const seat = new Map(order.map((index, rank) => [index, rank]));
      const moved = (place: number) => seat.get(place) ?? place;
      const found = await placed({ ...plan, edges: plan.edges.map(([from, to]) => [moved(from), to]) }, section.wide);
      let shift = -found.width / 2;
      if (enters.length) {
        const shifts = enters.map((source, index) => trunks.get(source)!.x - found.xs[moved(index)]! - 1).sort((one, other) => one - other);
        shift = shifts[shifts.length >> 1]!;
      }
      section.boxes.forEach((box, index) => {
        xs[box] = found.xs[enters.length + index]! + shift;
        ys[box] = found.ys[enters.length + index]! + y;
        left = Math.min(left, xs[box]!);
        right = Math.max(right, xs[box]! + boxes[box]!.width);
      });
      const entering = new Set(enters);
      const further = new Map<number, { pieces: number[]; x: number; y: number }>();
      plan.edges.forEach((_, edge) => {
        const link = section.links[edge]!;
        const source = section.sources[edge]!;
        const trunk = trunks.get(source);
        const entered = trunk !== undefined && entering.has(source);
        const route = found.routes[edge]!;
        const points = new Float32Array(route.length + (entered ? 2 : 0));
        if (entered) points.set([trunk.x, trunk.y]);
        for (let each = 0; each < route.length; each += 2) {
          const to = each + (entered ? 2 : 0);
          points[to] = route[each]! + shift;
          points[to + 1] = route[each + 1]! + y;
        }
        for (let each = 0; each < points.length; each += 2) {
          left = Math.min(left, points[each]!);
          right = Math.max(right, points[each]!);
        }
        pieces.push({ points, arrow: link >= 0, source });
        const way = [...(entered ? trunk.pieces : []), pieces.length - 1];
        if (link >= 0) ways[link] = way;
        else further.set(source, { pieces: way, x: points[points.length - 2]!, y: points[points.length - 1]! });
      });
      for (const source of leaves) trunks.set(source, further.get(source)!);
      y += found.height + GAP;
      at += 1;
      report(at / sections.length);
      // Known sections take no time; the page still has to breathe now and then.
      if (at % 50 === 0) await new Promise((resolve) => setTimeout(resolve));
      signal.throwIfAborted();
    }
  } finally {
    elk?.stop();
    signal.removeEventListener("abort", stopped);
    hurried.removeEventListener("abort", stopped);
  }
  if (left > right) left = right = 0;

  for (const at of direct) {
    const { from, to, source } = links[at]!;
    const one = boxes[from]!;
    const other = boxes[to]!;
    const startX = xs[from]! + one.width / 2;
    const startY = ys[from]! + one.height;
    const endX = xs[to]! + other.width / 2;
    const endY = ys[to]!;
    const aside = Math.max(xs[from]! + one.width, xs[to]! + other.width) + 24;
    const upward = endY < startY;
    const route = upward
      ? [startX, startY, startX, startY + 18, aside, startY + 18, aside, endY - 18, endX, endY - 18, endX, endY]
      : straight(startX, startY, endX, endY);
    if (upward) right = Math.max(right, aside);
    pieces.push({ points: Float32Array.from(route), arrow: true, source });
    ways[at] = [pieces.length - 1];
  }
  return { xs, ys, pieces, ways, left, top: 0, width: right - left, height: Math.max(0, y - GAP), plain };
}
