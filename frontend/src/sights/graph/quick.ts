// A plain layered layout that takes next to no time, for what is too large for ELK.

import type { Placed } from "./elk";
import { layersOf } from "./layers";
import type { Plan } from "./sections";

const ASIDE = 22;
const BELOW = 48;
const SWEEPS = 4;
/** Boxes of a layer above which they stand in several rows. */
const WIDE = 120;

/** The route of an edge that turns round nothing. */
export function straight(fromX: number, fromY: number, toX: number, toY: number): number[] {
  const bend = Math.min(60, Math.abs(toY - fromY) / 3);
  return [fromX, fromY, fromX, fromY + bend, toX, toY - bend, toX, toY];
}

/** Whether a plan is one box below the other, so that any layout of it is the same. */
export function isPath(plan: Plan): boolean {
  const count = plan.widths.length;
  const next = new Map(plan.edges);
  const entered = new Set(next.values());
  if (plan.edges.length !== count - 1 || next.size !== count - 1 || entered.size !== count - 1) return false;
  let at: number | undefined = plan.widths.findIndex((_, box) => !entered.has(box));
  let seen = 0;
  for (; at !== undefined && at >= 0 && seen < count; at = next.get(at)) seen += 1;
  return seen === count;
}

/** Lay out a plan: layers by the longest path, each ordered by the mean place of its neighbours. */
export function placeQuickly(plan: Plan): Placed {
  const count = plan.widths.length;
  const pairs = plan.edges.map(([from, to]) => ({ from, to }));
  const { layer, back, count: deep } = layersOf(count, pairs, (box) => box < plan.top);
  const rows: number[][] = Array.from({ length: deep + 1 }, () => []);
  for (let box = 0; box < count; box += 1) {
    if (box < plan.top) layer[box] = 0;
    if (box >= count - plan.bottom) layer[box] = deep;
    rows[layer[box]!]!.push(box);
  }
  const above: number[][] = plan.widths.map(() => []);
  const below: number[][] = plan.widths.map(() => []);
  pairs.forEach(({ from, to }, at) => {
    if (back[at]) return;
    above[to]!.push(from);
    below[from]!.push(to);
  });

  // How many rows a layer has: what stands in one column has one place in the order.
  const linesOf = (row: number[]) => (row.length > WIDE ? Math.ceil(row.length / Math.max(WIDE / 2, Math.sqrt(row.length * 2))) : 1);
  const middle = new Float64Array(count);
  const spread = (row: number[]) => {
    const lines = linesOf(row);
    let x = 0;
    for (let first = 0; first < row.length; first += lines) {
      const column = row.slice(first, first + lines);
      const wide = Math.max(...column.map((box) => plan.widths[box]!));
      for (const box of column) middle[box] = x + wide / 2;
      x += wide + ASIDE;
    }
    for (const box of row) middle[box]! -= (x - ASIDE) / 2;
  };
  for (const row of rows) spread(row);
  const wanted = new Float64Array(count);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0;
    const near = down ? above : below;
    for (const row of down ? rows : [...rows].reverse()) {
      for (const box of row) {
        const list = near[box]!;
        wanted[box] = list.length ? list.reduce((sum, each) => sum + middle[each]!, 0) / list.length : middle[box]!;
      }
      row.sort((one, other) => wanted[one]! - wanted[other]!);
      // Each as far to the left as those before it leave, then all moved so that they are right on average.
      const lines = linesOf(row);
      let edge = -Infinity;
      let off = 0;
      for (let first = 0; first < row.length; first += lines) {
        const column = row.slice(first, first + lines);
        const half = Math.max(...column.map((box) => plan.widths[box]!)) / 2;
        const mean = column.reduce((sum, box) => sum + wanted[box]!, 0) / column.length;
        const at = Math.max(mean, edge + half);
        edge = at + half + ASIDE;
        for (const box of column) {
          middle[box] = at;
          off += at - wanted[box]!;
        }
      }
      for (const box of row) middle[box]! -= off / row.length;
    }
  }

  const xs = new Array<number>(count).fill(0);
  const ys = new Array<number>(count).fill(0);
  let left = Infinity;
  let right = -Infinity;
  let y = 0;
  for (const row of rows) {
    const lines = linesOf(row);
    for (let line = 0; line < lines; line += 1) {
      let tall = 0;
      for (let each = line; each < row.length; each += lines) {
        const box = row[each]!;
        xs[box] = middle[box]! - plan.widths[box]! / 2;
        ys[box] = y;
        tall = Math.max(tall, plan.heights[box]!);
        left = Math.min(left, xs[box]!);
        right = Math.max(right, xs[box]! + plan.widths[box]!);
      }
      if (row.length) y += tall + (line === lines - 1 ? BELOW : ASIDE);
    }
  }
  if (!count) left = right = 0;
  for (let box = 0; box < count; box += 1) xs[box]! -= left;
  const routes = plan.edges.map(([from, to]) =>
    straight(xs[from]! + plan.widths[from]! / 2, ys[from]! + plan.heights[from]!, xs[to]! + plan.widths[to]! / 2, ys[to]!),
  );
  return { xs, ys, routes, width: right - left, height: Math.max(0, y - BELOW) };
}
