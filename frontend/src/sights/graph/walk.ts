// Walking from node to node along the links.

import type { Scene } from "./scene";

/** The box after (or before) one: along its first link; from none, the first box of all. */
export function nextAlong(scene: Scene, box: number, forward: boolean): number {
  const { picture } = scene;
  if (box < 0) {
    const first = picture.boxes.findIndex((each) => each.kind === "input");
    return first >= 0 ? first : picture.boxes.length ? 0 : -1;
  }
  const link = (forward ? picture.out : picture.into)[box]?.[0];
  if (link === undefined) return -1;
  return forward ? picture.links[link]!.to : picture.links[link]!.from;
}

/** The box beside one: the next that shares its producer, or its user where it has none. */
export function beside(scene: Scene, box: number, step: number): number {
  const { links, into, out } = scene.picture;
  const up = into[box]?.[0];
  const down = out[box]?.[0];
  let row: number[] = [];
  if (up !== undefined) row = out[links[up]!.from]!.map((link) => links[link]!.to);
  else if (down !== undefined) row = into[links[down]!.to]!.map((link) => links[link]!.from);
  row = [...new Set(row)];
  if (row.length < 2) return -1;
  return row[(row.indexOf(box) + step + row.length) % row.length]!;
}

/** How a box is said. */
export function saidOf(scene: Scene, box: number): string {
  const each = scene.picture.boxes[box];
  if (!each) return "";
  const kinds = { op: "", constant: "constant ", input: "input ", output: "output ", outer: "outer value " };
  const lines = each.lines.length ? `, ${each.lines.join(", ")}` : "";
  const into = scene.picture.into[box]!.length;
  const out = scene.picture.out[box]!.length;
  return `${kinds[each.kind]}${each.title}${lines}; ${into} in, ${out} out`;
}
