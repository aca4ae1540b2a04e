// What is laid out, indexed by bands of height so that only what is seen is drawn.

import type { Layout, Piece } from "./layout";
import type { Picture } from "./picture";

export interface Rect {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** The type along a line: how high it is, and about how wide a letter of it. */
export const LABEL_HEIGHT = 12;
const LABEL_WIDTH = 6.2;

function overlap(one: Rect, other: Rect): boolean {
  return one.left < other.right && other.left < one.right && one.top < other.bottom - 0.5 && other.top < one.bottom - 0.5;
}

const BAND = 400;
/** A line over more bands than this is looked at for every frame instead. */
const LONG = 40;

class Bands {
  private readonly bands = new Map<number, number[]>();
  private readonly long: number[] = [];
  /** By item, the last visit that came to it. */
  private readonly visited: Uint32Array;
  private visits = 0;

  constructor(size: number) {
    this.visited = new Uint32Array(size);
  }

  add(item: number, top: number, bottom: number): void {
    const from = Math.floor(top / BAND);
    const to = Math.floor(bottom / BAND);
    if (to - from > LONG) {
      this.long.push(item);
      return;
    }
    for (let band = from; band <= to; band += 1) {
      const list = this.bands.get(band);
      if (list) list.push(item);
      else this.bands.set(band, [item]);
    }
  }

  /** Visit what may be between two heights, each once. */
  visit(top: number, bottom: number, act: (item: number) => void): void {
    this.visits += 1;
    for (const item of this.long) act(item);
    const from = Math.floor(top / BAND);
    const to = Math.floor(bottom / BAND);
    const some = to - from < this.bands.size ? Array.from({ length: to - from + 1 }, (_, at) => from + at) : this.bands.keys();
    for (const band of some) {
      if (band < from || band > to) continue;
      for (const item of this.bands.get(band) ?? []) {
        if (this.visited[item] === this.visits) continue;
        this.visited[item] = this.visits;
        act(item);
      }
    }
  }
}

export class Scene {
  private readonly boxBands: Bands;
  private readonly pieceBands: Bands;
  /** By piece: left, top, right, bottom. */
  readonly spans: Float32Array;
  /** The pieces that say the type of their value, and how many other types stand below. */
  readonly labels = new Map<number, number>();

  constructor(
    readonly picture: Picture,
    readonly layout: Layout,
  ) {
    this.boxBands = new Bands(picture.boxes.length);
    this.pieceBands = new Bands(layout.pieces.length);
    picture.boxes.forEach((box, at) => this.boxBands.add(at, layout.ys[at]!, layout.ys[at]! + box.height));
    this.spans = new Float32Array(layout.pieces.length * 4);
    layout.pieces.forEach(({ points }, at) => {
      let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
      for (let each = 0; each < points.length; each += 2) {
        left = Math.min(left, points[each]!);
        right = Math.max(right, points[each]!);
        top = Math.min(top, points[each + 1]!);
        bottom = Math.max(bottom, points[each + 1]!);
      }
      this.spans.set([left, top, right, bottom], at * 4);
      if (points.length >= 4) this.pieceBands.add(at, top, bottom);
    });
    const taken = new Map<number, Rect[]>();
    for (const into of picture.into) this.label(into, taken);
  }

  /** Say each type that arrives at a box once, at the arrow furthest to the right; three at most, and
   * where there is room. */
  private label(into: readonly number[], taken: Map<number, Rect[]>): void {
    const { links, sources } = this.picture;
    const ends = new Map<string, number>();
    const endOf = (piece: number) => this.layout.pieces[piece]!.points.at(-2) ?? 0;
    for (const link of into) {
      const { type } = sources[links[link]!.source]!;
      const piece = this.layout.ways[link]!.at(-1);
      if (!type || piece === undefined) continue;
      const known = ends.get(type);
      if (known === undefined || endOf(known) < endOf(piece)) ends.set(type, piece);
    }
    for (const [type, piece] of [...ends].slice(0, 3)) {
      const points = this.layout.pieces[piece]!.points;
      const [left, foot] = [points.at(-2)! + 6, points.at(-1)! - 14];
      // The lowest seat at which it covers no other; else it is not said.
      for (let rank = 0; rank < 3; rank += 1) {
        const top = foot - (rank + 0.5) * LABEL_HEIGHT;
        const place = { left, top, right: left + type.length * LABEL_WIDTH, bottom: top + LABEL_HEIGHT };
        const band = Math.round(top / LABEL_HEIGHT);
        const near = [band - 1, band, band + 1].flatMap((each) => taken.get(each) ?? []);
        if (near.some((other) => overlap(place, other))) continue;
        taken.set(band, [...(taken.get(band) ?? []), place]);
        this.labels.set(piece, rank);
        break;
      }
    }
  }

  boxesIn(view: Rect): number[] {
    const { xs } = this.layout;
    const found: number[] = [];
    this.boxBands.visit(view.top, view.bottom, (at) => {
      if (xs[at]! < view.right && xs[at]! + this.picture.boxes[at]!.width > view.left) found.push(at);
    });
    return found;
  }

  /** The pieces in a view that are at least so long or wide. */
  piecesIn(view: Rect, least = 0): number[] {
    const { spans } = this;
    const found: number[] = [];
    this.pieceBands.visit(view.top, view.bottom, (at) => {
      const [left, top, right, bottom] = [spans[at * 4]!, spans[at * 4 + 1]!, spans[at * 4 + 2]!, spans[at * 4 + 3]!];
      if (left > view.right || right < view.left || top > view.bottom || bottom < view.top) return;
      if (right - left + bottom - top >= least) found.push(at);
    });
    return found;
  }

  /** The box at a point, or -1. */
  at(x: number, y: number, slack = 0): number {
    const { ys } = this.layout;
    let found = -1;
    for (const box of this.boxesIn({ left: x - slack, right: x + slack + 0.01, top: y - slack, bottom: y + slack })) {
      const { height } = this.picture.boxes[box]!;
      if (ys[box]! - slack <= y && y <= ys[box]! + height + slack) found = box;
    }
    return found;
  }

  middle(box: number): [x: number, y: number] {
    const { width, height } = this.picture.boxes[box]!;
    return [this.layout.xs[box]! + width / 2, this.layout.ys[box]! + height / 2];
  }

  /** What a chosen box touches: its pieces, and the boxes at their other ends. */
  around(box: number): { pieces: Set<number>; boxes: Set<number> } {
    const pieces = new Set<number>();
    const boxes = new Set<number>();
    const { into, out, links } = this.picture;
    for (const link of [...(into[box] ?? []), ...(out[box] ?? [])]) {
      for (const piece of this.layout.ways[link]!) pieces.add(piece);
      boxes.add(links[link]!.from).add(links[link]!.to);
    }
    boxes.delete(box);
    return { pieces, boxes };
  }

  piece(at: number): Piece {
    return this.layout.pieces[at]!;
  }
}
