// A matrix as colours, of any size: what is given are windows of it (coarse ones first, finer ones
// upon them). Wheel, pinch, + and - zoom; dragging moves; arrows move the cell's cursor, 0 shows all.
//
//   <Heatmap label="conv1" whole={{ rows, cols }} panes={[{ head, data }]} scale={scale} view={view}
//     onView={setView} cell={cell} onCell={setCell} />

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Window } from "../answers";
import type { Binary } from "../ask";
import { plain } from "../names";
import { useCanvas, useDark } from "./canvas";
import { colourOf, inkOn, painted, type Scale } from "./colour";
import "./heatmap.css";
import { all, type Extent, isAll, moved, showing, type View, zoomed } from "./view";

export interface Cell {
  row: number;
  col: number;
}

export interface HeatmapProps {
  /** What it shows, for those who hear it. */
  label: string;
  whole: Extent;
  panes: Binary<Window>[];
  scale: Scale;
  view: View;
  onView: (view: View) => void;
  cell: Cell | null;
  onCell: (cell: Cell | null) => void;
  /** The exact text of a cell, where it is known; drawn in cells that are large enough. */
  text?: (row: number, col: number) => string | undefined;
  /** Pixels; without it cells are square as far as that is sensible. */
  height?: number;
}

/** The number of a cell in the finest pane that has it. */
export function valueAt(panes: Binary<Window>[], row: number, col: number): number | undefined {
  for (let i = panes.length - 1; i >= 0; i -= 1) {
    const { head, data } = panes[i] as Binary<Window>;
    const [down, right] = [(row - (head.rows[0] ?? 0)) / (head.steps[0] ?? 1), (col - (head.cols[0] ?? 0)) / (head.steps[1] ?? 1)];
    if (!Number.isInteger(down) || !Number.isInteger(right)) continue;
    if (down >= 0 && right >= 0 && down < (head.shape[0] ?? 0) && right < (head.shape[1] ?? 0)) return data[down * (head.shape[1] ?? 0) + right];
  }
  return undefined;
}

/** The cell that the coarsest pane has for a cell: itself, or one up and left of it. */
export function sampledAt(panes: Binary<Window>[], { row, col }: Cell): Cell {
  const head = panes[0]?.head;
  const [top, left] = [head?.rows[0] ?? 0, head?.cols[0] ?? 0];
  return { row: row - ((row - top) % (head?.steps[0] ?? 1)), col: col - ((col - left) % (head?.steps[1] ?? 1)) };
}

/** How many pixels a cell is wide before its number is drawn in it. */
const LEGIBLE = 46;

/** A number in so many letters; the exact text where there is room for it. */
function short(text: string | undefined, value: number, room: number): string {
  if (text !== undefined && text.length <= room) return plain(text);
  const told = text === undefined ? value : Number(text);
  if (text !== undefined && Number.isNaN(told)) return `${plain(text, 100).slice(0, room - 1)}…`;
  if (!Number.isFinite(told)) return Number.isNaN(told) ? "nan" : told > 0 ? "inf" : "-inf";
  for (let digits = 4; digits > 0; digits -= 1) {
    const near = String(Number(told.toPrecision(digits)));
    if (near.length <= room) return near;
  }
  return told.toExponential(0);
}

export function Heatmap(props: HeatmapProps) {
  const { whole, panes, scale, view, cell } = props;
  const dark = useDark();
  const pictures = useRef(new WeakMap<Float32Array, { key: string; picture: HTMLCanvasElement }>());
  const pictureOf = ({ head, data }: Binary<Window>) => {
    const key = `${scale.low} ${scale.high} ${scale.diverging} ${dark}`;
    let known = pictures.current.get(data);
    if (known?.key !== key) {
      known = { key, picture: painted(data, head.shape[0] ?? 0, head.shape[1] ?? 0, scale, dark) };
      pictures.current.set(data, known);
    }
    return known.picture;
  };

  const canvas = useCanvas(
    (ink, width, height) => {
      const [x, y] = [width / view.cols, height / view.rows];
      ink.imageSmoothingEnabled = false;
      for (const pane of panes) {
        const { rows, cols, steps, shape } = pane.head;
        if (!shape[0] || !shape[1]) continue;
        const [top, left] = [((rows[0] ?? 0) - view.top) * y, ((cols[0] ?? 0) - view.left) * x];
        ink.save();
        ink.beginPath();
        ink.rect(left, top, ((cols[1] ?? 0) - (cols[0] ?? 0)) * x, ((rows[1] ?? 0) - (rows[0] ?? 0)) * y);
        ink.clip();
        ink.drawImage(pictureOf(pane), left, top, shape[1] * (steps[1] ?? 1) * x, shape[0] * (steps[0] ?? 1) * y);
        ink.restore();
      }
      if (x >= LEGIBLE && y >= 16) {
        ink.font = "12px ui-monospace, monospace";
        ink.textAlign = "center";
        ink.textBaseline = "middle";
        for (let row = Math.floor(view.top); row < Math.min(whole.rows, view.top + view.rows); row += 1) {
          for (let col = Math.floor(view.left); col < Math.min(whole.cols, view.left + view.cols); col += 1) {
            const value = valueAt(panes, row, col);
            if (value === undefined) continue;
            ink.fillStyle = inkOn(colourOf(value, scale, dark));
            ink.fillText(short(props.text?.(row, col), value, Math.floor((x - 4) / 7.3)), (col + 0.5 - view.left) * x, (row + 0.5 - view.top) * y, x - 4);
          }
        }
      }
      if (cell) {
        const [w, h] = [Math.max(4, x), Math.max(4, y)];
        const [left, top] = [(cell.col + 0.5 - view.left) * x - w / 2, (cell.row + 0.5 - view.top) * y - h / 2];
        ink.lineWidth = 3;
        ink.strokeStyle = dark ? "#000" : "#fff";
        ink.strokeRect(left, top, w, h);
        ink.lineWidth = 1.5;
        ink.strokeStyle = dark ? "#fff" : "#000";
        ink.strokeRect(left, top, w, h);
      }
    },
    [panes, scale, view, cell, dark, props.text, props.height],
  );

  const placeOf = (event: { clientX: number; clientY: number }) => {
    const box = (canvas.current as HTMLCanvasElement).getBoundingClientRect();
    return {
      row: view.top + ((event.clientY - box.top) / box.height) * view.rows,
      col: view.left + ((event.clientX - box.left) / box.width) * view.cols,
      perRow: view.rows / box.height,
      perCol: view.cols / box.width,
    };
  };
  const fingers = useRef(new Map<number, { x: number; y: number }>());
  const onPointerMove = (event: JSX.TargetedPointerEvent<HTMLCanvasElement>) => {
    const place = placeOf(event);
    const before = fingers.current.get(event.pointerId);
    if (before) {
      const now = { x: event.clientX, y: event.clientY };
      const other = [...fingers.current].find(([id]) => id !== event.pointerId)?.[1];
      fingers.current.set(event.pointerId, now);
      if (other) {
        const apart = (finger: { x: number; y: number }) => Math.max(8, Math.hypot(finger.x - other.x, finger.y - other.y));
        props.onView(zoomed(view, whole, apart(before) / apart(now), place.row, place.col));
      } else if (!isAll(view, whole)) {
        props.onView(moved(view, whole, (before.y - now.y) * place.perRow, (before.x - now.x) * place.perCol));
      }
    }
    const [row, col] = [Math.floor(place.row), Math.floor(place.col)];
    const inside = row >= 0 && col >= 0 && row < whole.rows && col < whole.cols;
    if (inside && (row !== cell?.row || col !== cell?.col)) props.onCell({ row, col });
  };

  const turn = useRef((_: WheelEvent) => {});
  turn.current = (event) => {
    event.preventDefault();
    const place = placeOf(event);
    props.onView(zoomed(view, whole, Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 200), place.row, place.col));
  };
  useEffect(() => {
    // Preact's own wheel listeners may not hold back the page's scrolling.
    const listen = (event: WheelEvent) => turn.current(event);
    const element = canvas.current as HTMLCanvasElement;
    element.addEventListener("wheel", listen, { passive: false });
    return () => element.removeEventListener("wheel", listen);
  }, []);

  const onKeyDown = (event: JSX.TargetedKeyboardEvent<HTMLCanvasElement>) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = cell ?? { row: Math.floor(view.top), col: Math.floor(view.left) - 1 };
    const step = event.shiftKey ? 10 : 1;
    const middle = cell ? [cell.row + 0.5, cell.col + 0.5] : [view.top + view.rows / 2, view.left + view.cols / 2];
    const go = (rows: number, cols: number) => {
      const row = Math.max(0, Math.min(whole.rows - 1, from.row + rows * step));
      const col = Math.max(0, Math.min(whole.cols - 1, from.col + cols * step));
      props.onCell({ row, col });
      props.onView(showing(view, whole, row, col));
    };
    const zoom = (factor: number) => props.onView(zoomed(view, whole, factor, middle[0] as number, middle[1] as number));
    const keys: Record<string, () => void> = {
      ArrowUp: () => go(-1, 0),
      ArrowDown: () => go(1, 0),
      ArrowLeft: () => go(0, -1),
      ArrowRight: () => go(0, 1),
      "+": () => zoom(0.5),
      "=": () => zoom(0.5),
      "-": () => zoom(2),
      "0": () => props.onView(all(whole)),
    };
    const act = Object.hasOwn(keys, event.key) ? keys[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  };

  return (
    <canvas
      ref={canvas}
      class="heatmap"
      role="application"
      aria-roledescription="heat map"
      aria-label={props.label}
      tabIndex={0}
      style={{ height: props.height, aspectRatio: `${whole.cols} / ${whole.rows}`, maxHeight: `min(${Math.max(34, Math.min(460, whole.rows * 56))}px, max(280px, 100vh - 560px))`, touchAction: isAll(view, whole) ? "pan-y" : "none" }}
      onPointerDown={(event) => {
        fingers.current.set(event.pointerId, { x: event.clientX, y: event.clientY });
        event.currentTarget.setPointerCapture(event.pointerId);
      }}
      onPointerUp={(event) => fingers.current.delete(event.pointerId)}
      onPointerCancel={(event) => fingers.current.delete(event.pointerId)}
      onPointerMove={onPointerMove}
      onKeyDown={onKeyDown}
    />
  );
}
