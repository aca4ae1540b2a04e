// Drawing a scene on a canvas: the closer the view, the more is drawn.

import { CATEGORIES, type Category } from "./categories";
import type { Colours } from "./colours";
import type { Piece } from "./layout";
import { LINE_FONT, LINE_HEIGHT, TITLE_FONT, TITLE_HEIGHT, type Box } from "./picture";
import { LABEL_HEIGHT, type Rect, type Scene } from "./scene";

/** Where the view is: the point of the scene in the upper left corner, and pixels per unit. */
export interface Camera {
  x: number;
  y: number;
  scale: number;
}

export interface Marks {
  chosen: number;
  hovered: number;
  pieces: Set<number>;
  boxes: Set<number>;
  /** Whether the ring of the focus is shown. */
  ring: boolean;
}

/** The scales from which titles, everything in a box, and the types along the links are drawn. */
const TITLES = 0.34;
const DETAILS = 0.5;
const LABELS = 0.8;
const RADIUS = 6;
/** Boxes that are drawn at once from afar. */
const MOST_BOXES = 15_000;
/** Lines that are drawn with rounded bends at once. */
const MOST_LINES = 1500;
/** How far from a bend a line begins to turn. */
const BEND = 36;

/** Trace a line: straight from afar, else rounded at its bends. */
export function trace(path: CanvasPath, { points }: Piece, smooth: boolean, view?: Rect): void {
  const last = points.length - 2;
  if (last < 2) return;
  // Of a line that goes far beyond the view only what is near is traced.
  let first = 0;
  let end = last;
  if (view && last > 40) {
    while (first + 4 < last && points[first + 3]! < view.top && points[first + 5]! < view.top) first += 2;
    while (end - 4 > first && points[end - 1]! > view.bottom && points[end - 3]! > view.bottom) end -= 2;
  }
  path.moveTo(points[first]!, points[first + 1]!);
  for (let at = first + 2; at < end; at += 2) {
    const [x, y] = [points[at]!, points[at + 1]!];
    if (!smooth) {
      path.lineTo(x, y);
      continue;
    }
    const [inX, inY] = [points[at - 2]! - x, points[at - 1]! - y];
    const [outX, outY] = [points[at + 2]! - x, points[at + 3]! - y];
    const before = Math.min(0.5, BEND / (Math.hypot(inX, inY) || 1));
    const after = Math.min(0.5, BEND / (Math.hypot(outX, outY) || 1));
    path.lineTo(x + inX * before, y + inY * before);
    path.quadraticCurveTo(x, y, x + outX * after, y + outY * after);
  }
  path.lineTo(points[end]!, points[end + 1]!);
}

/** The three corners of an arrow head at the end of a line. */
export function headOf({ points }: Piece, size: number): [number, number, number, number, number, number] {
  const last = points.length - 2;
  const [x, y] = [points[last]!, points[last + 1]!];
  let back = last - 2;
  while (back > 0 && Math.hypot(x - points[back]!, y - points[back + 1]!) < 0.5) back -= 2;
  const angle = Math.atan2(y - points[back + 1]!, x - points[back]!);
  const corner = (turn: number) => [x - size * Math.cos(angle + turn), y - size * Math.sin(angle + turn)] as const;
  return [x, y, ...corner(0.42), ...corner(-0.42)];
}

function arrows(pen: CanvasRenderingContext2D, scene: Scene, pieces: Iterable<number>, size: number): void {
  pen.beginPath();
  for (const at of pieces) {
    const piece = scene.piece(at);
    if (!piece.arrow || piece.points.length < 4) continue;
    const [x, y, leftX, leftY, rightX, rightY] = headOf(piece, size);
    pen.moveTo(x, y);
    pen.lineTo(leftX, leftY);
    pen.lineTo(rightX, rightY);
  }
  pen.fill();
}

function lines(pen: CanvasRenderingContext2D, scene: Scene, pieces: Iterable<number>, smooth: boolean, view: Rect): void {
  pen.beginPath();
  for (const at of pieces) trace(pen, scene.piece(at), smooth, view);
  pen.stroke();
}

function outline(pen: CanvasRenderingContext2D, scene: Scene, at: number, grow = 0): void {
  const { kind, width, height } = scene.picture.boxes[at]!;
  const radius = kind === "op" ? RADIUS : height / 2;
  pen.roundRect(scene.layout.xs[at]! - grow, scene.layout.ys[at]! - grow, width + 2 * grow, height + 2 * grow, radius + grow);
}

function pill(pen: CanvasRenderingContext2D, scene: Scene, at: number, box: Box, colours: Colours, titles: boolean): void {
  const [x, y] = scene.middle(at);
  pen.beginPath();
  outline(pen, scene, at);
  pen.fillStyle = box.kind === "constant" ? colours.raised : colours.paper;
  pen.fill();
  pen.strokeStyle = box.kind === "input" || box.kind === "output" ? colours.accent : colours.soft;
  if (box.kind === "outer") pen.setLineDash([4, 3]);
  pen.stroke();
  pen.setLineDash([]);
  if (!titles) return;
  pen.font = box.kind === "constant" ? LINE_FONT : TITLE_FONT;
  pen.fillStyle = box.kind === "constant" ? colours.soft : colours.ink;
  pen.textAlign = "center";
  pen.fillText(box.title, x, y + 0.5, box.width - 12);
}

function operation(pen: CanvasRenderingContext2D, scene: Scene, at: number, box: Box, colours: Colours, details: boolean): void {
  const [x, y] = [scene.layout.xs[at]!, scene.layout.ys[at]!];
  pen.fillStyle = colours.category[box.category];
  pen.beginPath();
  outline(pen, scene, at);
  pen.fill();
  if (box.lines.length) {
    pen.fillStyle = colours.raised;
    pen.beginPath();
    pen.roundRect(x + 1, y + TITLE_HEIGHT, box.width - 2, box.height - TITLE_HEIGHT - 1, [0, 0, RADIUS - 1, RADIUS - 1]);
    pen.fill();
  }
  pen.fillStyle = colours.on;
  pen.font = TITLE_FONT;
  const alone = !box.lines.length && !box.opens;
  pen.textAlign = alone ? "center" : "left";
  pen.fillText(box.title, alone ? x + box.width / 2 : x + 10, y + TITLE_HEIGHT / 2 + 0.5, box.width - (box.opens ? 36 : 20));
  pen.textAlign = "left";
  if (box.opens) pen.fillText("⊞", x + box.width - 20, y + TITLE_HEIGHT / 2 + 0.5);
  if (!details) return;
  pen.fillStyle = colours.ink;
  pen.font = LINE_FONT;
  box.lines.forEach((line, row) => pen.fillText(line, x + 10, y + TITLE_HEIGHT + 3 + (row + 0.5) * LINE_HEIGHT, box.width - 20));
}

function labels(pen: CanvasRenderingContext2D, scene: Scene, pieces: number[], colours: Colours): void {
  pen.font = LINE_FONT;
  pen.textAlign = "left";
  pen.lineWidth = 3;
  pen.strokeStyle = colours.paper;
  pen.fillStyle = colours.soft;
  for (const at of pieces) {
    const rank = scene.labels.get(at);
    if (rank === undefined) continue;
    const { points, source } = scene.piece(at);
    const text = scene.picture.sources[source]!.type;
    const [x, y] = [points[points.length - 2]! + 6, points[points.length - 1]! - 14 - rank * LABEL_HEIGHT];
    pen.strokeText(text, x, y);
    pen.fillText(text, x, y);
  }
}

/** Draw what is in view; `width` and `height` are in CSS pixels. */
export function paint(pen: CanvasRenderingContext2D, scene: Scene, camera: Camera, width: number, height: number, ratio: number, colours: Colours, marks: Marks): void {
  const { scale } = camera;
  const view: Rect = { left: camera.x, top: camera.y, right: camera.x + width / scale, bottom: camera.y + height / scale };
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, width * ratio, height * ratio);
  pen.setTransform(scale * ratio, 0, 0, scale * ratio, -camera.x * scale * ratio, -camera.y * scale * ratio);
  pen.textBaseline = "middle";
  const close = scale >= TITLES;
  const pixel = 1 / (scale * ratio);

  const pieces = scene.piecesIn(view, close ? 0 : 2 / scale);
  pen.strokeStyle = pen.fillStyle = colours.edge;
  // A line of one pixel is drawn far more quickly than a wider one.
  const fine = close && pieces.length <= MOST_LINES;
  pen.lineWidth = fine ? Math.max(1.2, pixel) : pixel;
  lines(pen, scene, pieces, fine, view);
  if (fine) arrows(pen, scene, pieces, 8);

  const { boxes } = scene.picture;
  const { xs, ys } = scene.layout;
  const seen = scene.boxesIn(view);
  if (marks.pieces.size) {
    pen.strokeStyle = pen.fillStyle = colours.accent;
    pen.lineWidth = Math.max(2.2, 1.6 / scale);
    const few = close && marks.pieces.size <= MOST_LINES;
    lines(pen, scene, marks.pieces, few, view);
    if (few) arrows(pen, scene, marks.pieces, 10);
  }
  if (close) {
    pen.lineWidth = 1.2;
    for (const at of seen) {
      const box = boxes[at]!;
      if (box.kind === "op") operation(pen, scene, at, box, colours, scale >= DETAILS);
      else pill(pen, scene, at, box, colours, true);
    }
    if (scale >= LABELS) labels(pen, scene, pieces, colours);
  } else {
    const rows = Object.fromEntries(CATEGORIES.map((name) => [name, []])) as unknown as Record<Category | "pill", number[]>;
    rows.pill = [];
    // Where boxes are far smaller than a pixel some of them look as all of them do.
    const every = Math.ceil(seen.length / MOST_BOXES);
    for (let each = 0; each < seen.length; each += every) {
      const at = seen[each]!;
      rows[boxes[at]!.kind === "op" ? boxes[at]!.category : "pill"].push(at);
    }
    for (const name of [...CATEGORIES, "pill"] as const) {
      pen.fillStyle = name === "pill" ? colours.soft : colours.category[name];
      for (const at of rows[name]) pen.fillRect(xs[at]!, ys[at]!, boxes[at]!.width, boxes[at]!.height);
    }
  }
  const ring = (at: number, wide: number, grow: number) => {
    pen.lineWidth = wide / scale;
    pen.beginPath();
    outline(pen, scene, at, grow / scale);
    pen.stroke();
  };
  pen.strokeStyle = colours.accent;
  for (const at of marks.boxes) {
    const top = ys[at]!;
    const left = xs[at]!;
    if (left > view.right || left + boxes[at]!.width < view.left) continue;
    if (top < view.bottom && top + boxes[at]!.height > view.top) ring(at, 1.5, 1);
  }
  if (marks.hovered >= 0 && marks.hovered !== marks.chosen) ring(marks.hovered, 1.5, 1.5);
  if (marks.chosen >= 0) ring(marks.chosen, marks.ring ? 3.5 : 2.5, marks.ring ? 3 : 2);
}
