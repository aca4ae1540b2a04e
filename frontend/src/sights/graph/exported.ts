// The drawing as a file: SVG, built as a document so that every name stays text, and PNG.

import type { Colours } from "./colours";
import { headOf, paint, trace } from "./paint";
import { LINE_HEIGHT, TITLE_HEIGHT } from "./picture";
import type { Scene } from "./scene";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = 24;
const LARGEST = 8000;

type Attributes = Record<string, string | number>;

/** What trace() calls, written as the data of an SVG path. */
class PathData implements Pick<CanvasPath, "moveTo" | "lineTo" | "quadraticCurveTo"> {
  readonly words: string[] = [];
  private say(letter: string, ...numbers: number[]): void {
    this.words.push(letter + numbers.map((each) => Math.round(each * 10) / 10).join(" "));
  }
  moveTo(x: number, y: number): void {
    this.say("M", x, y);
  }
  lineTo(x: number, y: number): void {
    this.say("L", x, y);
  }
  quadraticCurveTo(cx: number, cy: number, x: number, y: number): void {
    this.say("Q", cx, cy, x, y);
  }
}

export function svgOf(scene: Scene, colours: Colours, title: string): string {
  const { layout, picture } = scene;
  const file = document.implementation.createDocument(SVG, "svg", null);
  const add = (parent: Element, name: string, attributes: Attributes, text?: string) => {
    const element = file.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, `${value}`);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const root = file.documentElement;
  const box = [layout.left - MARGIN, layout.top - MARGIN, layout.width + 2 * MARGIN, layout.height + 2 * MARGIN].map(Math.round);
  root.setAttribute("viewBox", box.join(" "));
  root.setAttribute("width", `${box[2]}`);
  root.setAttribute("height", `${box[3]}`);
  add(root, "title", {}, title);
  add(root, "rect", { x: box[0]!, y: box[1]!, width: box[2]!, height: box[3]!, fill: colours.paper });
  const links = add(root, "g", { fill: "none", stroke: colours.edge, "stroke-width": 1.2 });
  const heads = add(root, "g", { fill: colours.edge });
  for (const piece of layout.pieces) {
    const path = new PathData();
    trace(path as unknown as CanvasPath, piece, true);
    if (!path.words.length) continue;
    const type = picture.sources[piece.source]!.type;
    const line = add(links, "path", { d: path.words.join("") });
    if (type) add(line, "title", {}, type);
    if (!piece.arrow) continue;
    const round = headOf(piece, 8).map((each) => Math.round(each * 10) / 10);
    add(heads, "polygon", { points: round.join(" ") });
  }
  const nodes = add(root, "g", { "font-family": "system-ui, sans-serif", "dominant-baseline": "central" });
  picture.boxes.forEach((each, at) => {
    const [x, y] = [layout.xs[at]!, layout.ys[at]!].map((place) => Math.round(place * 10) / 10) as [number, number];
    const { width, height } = each;
    const group = add(nodes, "g", { transform: `translate(${x} ${y})` });
    if (each.kind === "op") {
      add(group, "rect", { width, height, rx: 6, fill: colours.category[each.category] });
      if (each.lines.length) add(group, "rect", { x: 1, y: TITLE_HEIGHT, width: width - 2, height: height - TITLE_HEIGHT - 1, rx: 5, fill: colours.raised });
      const seat: Attributes = each.lines.length || each.opens ? { x: 10 } : { x: width / 2, "text-anchor": "middle" };
      add(group, "text", { ...seat, y: TITLE_HEIGHT / 2, fill: colours.on, "font-size": 12, "font-weight": 600 }, each.title);
      each.lines.forEach((line, row) =>
        add(group, "text", { x: 10, y: TITLE_HEIGHT + 3 + (row + 0.5) * LINE_HEIGHT, fill: colours.ink, "font-size": 11 }, line),
      );
    } else {
      const stroke = each.kind === "input" || each.kind === "output" ? colours.accent : colours.soft;
      add(group, "rect", { width, height, rx: height / 2, fill: colours.paper, stroke, ...(each.kind === "outer" && { "stroke-dasharray": "4 3" }) });
      const text = { x: width / 2, y: height / 2, "text-anchor": "middle", fill: colours.ink, "font-size": each.kind === "constant" ? 11 : 12 };
      add(group, "text", text, each.title);
    }
  });
  return new XMLSerializer().serializeToString(file);
}

/** The whole drawing as an image, at most 8,000 pixels wide and high. */
export function pngOf(scene: Scene, colours: Colours): Promise<Blob | null> {
  const { layout } = scene;
  const width = layout.width + 2 * MARGIN;
  const height = layout.height + 2 * MARGIN;
  const scale = Math.min(2, LARGEST / width, LARGEST / height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(width * scale));
  canvas.height = Math.max(1, Math.floor(height * scale));
  const pen = canvas.getContext("2d");
  if (!pen) return Promise.resolve(null);
  const camera = { x: layout.left - MARGIN, y: layout.top - MARGIN, scale };
  const marks = { chosen: -1, hovered: -1, pieces: new Set<number>(), boxes: new Set<number>(), ring: false };
  paint(pen, scene, camera, canvas.width, canvas.height, 1, colours, marks);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Hand a file to the reader. */
export function download(blob: Blob, name: string): void {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name.replace(/[^\w.-]+/g, "_").slice(0, 120);
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
