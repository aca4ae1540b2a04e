// Shares of a whole as nested rectangles (squarified), on a canvas. It is for pointing: what it shows
// must be reachable by keyboard elsewhere, so it is hidden from those who hear the page.
//
//   <Treemap root={root} size={(node) => ...} parts={(node) => ...} name={(node) => ...} onChoose={(node) => ...} />

import { useEffect, useMemo, useState } from "preact/hooks";
import { count } from "../format";
import { pageColour, useCanvas, useDark } from "./canvas";
import { type Box, type Placed, placed } from "./squarified";
import "./treemap.css";

export interface TreemapProps<Node> {
  root: Node;
  size: (node: Node) => number;
  /** What a node consists of; undefined where it is a leaf. */
  parts: (node: Node) => readonly Node[] | undefined;
  name: (node: Node) => string;
  /** What is told of the node that is pointed at. */
  tell: (node: Node) => string;
  /** What is written beneath the name, where there is room. */
  amount?: (node: Node) => string;
  isSelected?: (node: Node) => boolean;
  /** Redraws when it changes, as does `version`. */
  chosen?: unknown;
  /** Called for a leaf, or for a part of the root. */
  onChoose: (node: Node) => void;
  version?: unknown;
  /** Pixels. */
  height: number;
}

const HUES = [250, 160, 65, 310, 205, 110, 20, 280];

function inside({ x, y, width, height }: Box, px: number, py: number): boolean {
  return px >= x && py >= y && px < x + width && py < y + height;
}

export function Treemap<Node>(props: TreemapProps<Node>) {
  const { root, name } = props;
  const dark = useDark();
  const [box, setBox] = useState({ width: 0, height: 0 });
  const [over, setOver] = useState<Placed<Node> | null>(null);
  const boxes = useMemo(
    () => placed(root, props, { x: 0, y: 0, ...box }),
    [root, box.width, box.height, props.version],
  );
  useEffect(() => setOver(null), [boxes]);
  const canvas = useCanvas(
    (ink, width, height) => {
      if (width !== box.width || height !== box.height) {
        setBox({ width, height });
        return;
      }
      const [text, soft, paper, accent] = [pageColour("--ink"), pageColour("--ink"), pageColour("--paper"), pageColour("--accent")];
      ink.textBaseline = "middle";
      for (const each of boxes) {
        const { x, y, width: w, height: h } = each.box;
        const hue = HUES[each.group % HUES.length] as number;
        const light = dark ? 0.29 + each.level * 0.05 : 0.94 - each.level * 0.045;
        ink.fillStyle = `oklch(${light} ${each.rest ? 0.005 : 0.06} ${hue})`;
        ink.fillRect(x, y, w, h);
        ink.strokeStyle = paper;
        ink.lineWidth = each.level === 0 ? 2 : 1;
        if (w > 3 && h > 3) ink.strokeRect(x, y, w, h);
        if (w > 34 && h > 15) {
          ink.save();
          ink.beginPath();
          ink.rect(x + 3, y, w - 6, h);
          ink.clip();
          ink.fillStyle = text;
          ink.font = each.open ? "600 11px system-ui, sans-serif" : "11px system-ui, sans-serif";
          ink.fillText(each.rest ? `${count(each.rest)} more` : name(each.node), x + 4, y + 8.5);
          if (!each.open && !each.rest && h > 32 && props.amount) {
            ink.fillStyle = soft;
            ink.fillText(props.amount(each.node), x + 4, y + 23);
          }
          ink.restore();
        }
      }
      const mark = (each: Placed<Node>, width: number) => {
        ink.strokeStyle = accent;
        ink.lineWidth = width;
        ink.strokeRect(each.box.x + 1, each.box.y + 1, Math.max(2, each.box.width - 2), Math.max(2, each.box.height - 2));
      };
      const chosen = boxes.find((each) => !each.rest && !each.open && props.isSelected?.(each.node));
      if (chosen) mark(chosen, 3);
      if (over) mark(over, 1.5);
    },
    [boxes, over, props.chosen, dark, box],
  );
  // The last box that holds a place is the innermost.
  const find = (event: MouseEvent) => {
    const edge = (canvas.current as HTMLCanvasElement).getBoundingClientRect();
    const held = boxes.filter((each) => inside(each.box, event.clientX - edge.left, event.clientY - edge.top));
    return held[held.length - 1] ?? null;
  };
  return (
    <figure class="treemap">
      <canvas
        ref={canvas}
        aria-hidden="true"
        style={{ height: props.height }}
        onPointerMove={(event) => setOver(find(event))}
        onPointerLeave={() => setOver(null)}
        onClick={(event) => {
          const hit = find(event);
          if (hit && !hit.rest) props.onChoose(hit.node);
        }}
      />
      <figcaption class="soft">{over ? (over.rest ? `${count(over.rest)} more, too small to draw` : props.tell(over.node)) : "point at a part to see what it is; click to go into it"}</figcaption>
    </figure>
  );
}
