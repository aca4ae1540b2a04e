// A part of a model as boxes and the links between them. Weights are no boxes: they are listed in
// the nodes that use them.

import type { Node, Part, Tensors } from "../../answers";
import { categoryOf, type Category } from "./categories";
import { lastOf, plain } from "../../names";

/** "outer" is a value from outside of the part, such as a subgraph uses. */
export type BoxKind = "op" | "constant" | "input" | "output" | "outer";

export interface Box {
  kind: BoxKind;
  category: Category;
  title: string;
  lines: string[];
  /** The place of its node in Part.nodes; -1 where it is a value. */
  node: number;
  /** The name of its value, where it is one. */
  value: string;
  /** Whether there is a subgraph or a function in it. */
  opens: boolean;
  width: number;
  height: number;
}

export interface Link {
  from: number;
  to: number;
  /** The place in Picture.sources: which value of which box. */
  source: number;
}

export interface Source {
  from: number;
  value: string;
  type: string;
}

export interface Picture {
  boxes: Box[];
  links: Link[];
  sources: Source[];
  /** By the place of a node, the place of its box. */
  boxOf: number[];
  into: number[][];
  out: number[][];
}

export const TITLE_FONT = "600 12px system-ui, sans-serif";
export const LINE_FONT = "11px system-ui, sans-serif";
export const TITLE_HEIGHT = 24;
export const LINE_HEIGHT = 15;
export const PILL_HEIGHT = 24;

const PLAIN_ATTRIBUTES = new Set(["kernel_shape", "kernel", "strides", "stride", "axis", "axes", "perm", "to", "alpha", "hidden_size", "mode", "equation", "shape", "size", "num_heads"]);
// Attributes that are shown only where they say something else than this.
const USUAL = new Map([
  ["pads", /^[[(]?[0, ]*[\])]?$/],
  ["pad", /^0$/],
  ["dilations", /^[[(]?[1, ]*[\])]?$/],
  ["dilation", /^[[(]?[1, ]*[\])]?$/],
  ["strides", /^[[(]?[1, ]*[\])]?$/],
  ["group", /^1$/],
  ["groups", /^1$/],
  ["transA", /^0$/],
  ["transB", /^0$/],
  ["direction", /^forward$/],
]);

let pen: CanvasRenderingContext2D | null = null;
const widths = new Map<string, number>();

function widthOf(text: string, font: string): number {
  const key = font + text;
  let width = widths.get(key);
  if (width === undefined) {
    pen ??= document.createElement("canvas").getContext("2d");
    if (!pen) return text.length * 7;
    pen.font = font;
    width = pen.measureText(text).width;
    if (widths.size > 20_000) widths.clear();
    widths.set(key, width);
  }
  return width;
}

function sized(box: Omit<Box, "width" | "height">): Box {
  const title = widthOf(box.title, TITLE_FONT) + (box.opens ? 36 : 20);
  const lines = box.lines.map((line) => widthOf(line, LINE_FONT) + 20);
  const pill = box.kind !== "op";
  return {
    ...box,
    width: Math.ceil(Math.min(340, Math.max(pill ? 40 : 64, title, ...lines))),
    height: pill ? PILL_HEIGHT : TITLE_HEIGHT + (box.lines.length ? box.lines.length * LINE_HEIGHT + 6 : 0),
  };
}

function linesOf(node: Node, weights: Map<string, number>, tensors: Tensors | undefined, types: Map<string, string>): string[] {
  const lines: string[] = [];
  for (const { name, text, part, tensor } of node.attributes.slice(0, 200)) {
    if (lines.length >= 4) break;
    const usual = USUAL.get(name);
    if (part !== null || tensor !== null || text.length > 32) continue;
    if (usual ? usual.test(text) : !PLAIN_ATTRIBUTES.has(name)) continue;
    lines.push(`${plain(name)} ${plain(text)}`);
  }
  let held = 0;
  for (const input of node.inputs) {
    const place = weights.get(input);
    if (place === undefined) continue;
    held += 1;
    if (held > 5) continue;
    const shape = tensors?.shapes[place];
    lines.push(`${lastOf(input)} ${shape ? `[${shape.join(", ")}]` : plain(types.get(input) ?? "", 40)}`);
  }
  if (held > 5) lines.push(`and ${held - 5} weights more`);
  return lines;
}

/** Draw up what is drawn of a part. */
export function pictureOf(part: Part, tensors: Tensors | undefined): Picture {
  const weights = new Map(Object.entries(part.tensors));
  const types = new Map(Object.entries(part.values));
  for (const value of [...part.inputs, ...part.outputs]) if (value.type) types.set(value.name, value.type);
  const boxes: Box[] = [];
  const links: Link[] = [];
  const sources: Source[] = [];
  const boxOf: number[] = [];
  const pill = (kind: BoxKind, value: string) => {
    const title = plain(value, 40) || "(unnamed)";
    boxes.push(sized({ kind, category: "other", title, lines: [], node: -1, value, opens: false }));
    return boxes.length - 1;
  };
  const sourceOf = (from: number, value: string) => {
    sources.push({ from, value, type: plain(types.get(value) ?? "", 80) });
    return sources.length - 1;
  };

  // Who made a value, as far as the nodes have been walked: a name may be written again (Caffe2).
  const made = new Map<string, number>();
  for (const { name } of part.inputs) {
    if (!weights.has(name)) made.set(name, sourceOf(pill("input", name), name));
  }
  const outputs = part.nodes.map((node, place) => {
    const constant = node.op === "Constant" && !node.parts.length;
    const said = constant ? plain(node.attributes.find((each) => each.text)?.text.replace(/^.{0,60} = /, "") ?? "", 24) : "";
    const title = plain(constant ? said || "Constant" : node.op, 40) || "(no operation)";
    const lines = constant ? [] : linesOf(node, weights, tensors, types);
    const kind = constant ? "constant" : "op";
    boxes.push(sized({ kind, category: categoryOf(node.op), title, lines, node: place, value: "", opens: node.parts.length > 0 }));
    boxOf.push(boxes.length - 1);
    return node.outputs.map((name) => (name ? sourceOf(boxes.length - 1, name) : -1));
  });
  const first = new Map<string, number>();
  part.nodes.forEach((node, place) =>
    node.outputs.forEach((name, at) => name && !first.has(name) && first.set(name, outputs[place]?.[at] ?? -1)),
  );
  const join = (name: string, to: number, seen: Set<number>) => {
    let source = made.get(name) ?? first.get(name);
    if (source === undefined) {
      if (weights.has(name)) return;
      source = sourceOf(pill("outer", name), name);
      made.set(name, source);
    }
    if (seen.has(source)) return;
    seen.add(source);
    links.push({ from: sources[source]?.from ?? 0, to, source });
  };
  part.nodes.forEach((node, place) => {
    const seen = new Set<number>();
    for (const name of node.inputs) if (name) join(name, boxOf[place] ?? 0, seen);
    node.outputs.forEach((name, at) => name && made.set(name, outputs[place]?.[at] ?? 0));
  });
  for (const { name } of part.outputs) join(name, pill("output", name), new Set());

  const into: number[][] = boxes.map(() => []);
  const out: number[][] = boxes.map(() => []);
  links.forEach((link, place) => {
    into[link.to]?.push(place);
    out[link.from]?.push(place);
  });
  return { boxes, links, sources, boxOf, into, out };
}
