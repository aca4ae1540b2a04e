// Asking for windows of a slice as finely as it is seen, and for exact values.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Values, Window } from "../../answers";
import { ask, askBinary, type Binary, isReport } from "../../ask";
import type { Cell } from "../../components/heatmap";
import { type Extent, type View, held as within } from "../../components/view";
import { useDeferred } from "./deferred";

/** Which slice: the axes that go down and right, and the place on every axis. */
export interface Cut {
  axes: number[];
  at: number[];
}

export function extentOf(cut: Cut, shape: readonly number[]): Extent {
  const [down, right] = cut.axes.length > 1 ? cut.axes : [undefined, cut.axes[0]];
  return { rows: down === undefined ? 1 : (shape[down] ?? 1), cols: right === undefined ? 1 : (shape[right] ?? 1) };
}

function asPath({ axes, at }: Cut): string {
  return `axes=${axes.join(",")}&at=${at.join(",")}`;
}

/** The whole number of rows or columns around what is in view, with some more on both sides. */
function around(from: number, length: number, all: number): [number, number] {
  const more = length / 4;
  return [Math.max(0, Math.floor(from - more)), Math.min(all, Math.ceil(from + length + more))];
}

function covers({ head }: Binary<Window>, rows: [number, number], cols: [number, number], every: [number, number]): boolean {
  const fine = (head.steps[0] ?? 1) <= every[0] && (head.steps[1] ?? 1) <= every[1];
  return fine && (head.rows[0] ?? 0) <= rows[0] && (head.rows[1] ?? 0) >= rows[1] && (head.cols[0] ?? 0) <= cols[0] && (head.cols[1] ?? 0) >= cols[1];
}

/** The windows of a slice, coarse ones first: the first one of all, then finer ones of what is in view. */
export function usePanes(base: string, shape: readonly number[], cut: Cut, first: Binary<Window>, view: View) {
  const [panes, setPanes] = useState<Binary<Window>[]>([first]);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const slice = asPath(cut);
  const isFirst = slice === asPath(first.head);
  const shown = useRef(slice);
  const whole = extentOf(cut, shape);
  const settled = useDeferred(view, 120);

  useEffect(() => {
    if (isReport) return;
    const stop = new AbortController();
    // It may still be that of the slice before.
    const seen = within(settled, whole);
    const fresh = shown.current !== slice;
    const held = fresh ? (isFirst ? [first] : []) : panes;
    const most = whole.rows === 1 ? 1024 : 256;
    const rows: [number, number] = held.length ? around(seen.top, seen.rows, whole.rows) : [0, whole.rows];
    const cols: [number, number] = held.length ? around(seen.left, seen.cols, whole.cols) : [0, whole.cols];
    const sight = [Math.min(whole.rows, Math.ceil(seen.top + seen.rows)), Math.min(whole.cols, Math.ceil(seen.left + seen.cols))] as const;
    const every: [number, number] = [Math.max(1, Math.ceil(seen.rows / 128)), Math.max(1, Math.ceil(seen.cols / (most / 2)))];
    const enough = held.some((pane) => covers(pane, [Math.floor(seen.top), sight[0]], [Math.floor(seen.left), sight[1]], every));
    if (enough) {
      shown.current = slice;
      if (fresh) setPanes(held);
      return;
    }
    setBusy(true);
    askBinary<Window>(`${base}/window?${slice}&rows=${rows.join(":")}&cols=${cols.join(":")}&most=${most}`, stop.signal)
      .then((pane) => {
        if (stop.signal.aborted) return;
        shown.current = slice;
        // The coarse one that shows all, and the last two that are finer.
        setPanes(held.length ? [held[0] as Binary<Window>, ...held.slice(1).slice(-1), pane] : [pane]);
        setProblem("");
      })
      .catch((error: Error) => !stop.signal.aborted && setProblem(error.message))
      .finally(() => !stop.signal.aborted && setBusy(false));
    return () => {
      stop.abort();
      setBusy(false);
    };
  }, [slice, settled]);
  return { panes, problem, busy };
}

/** Exact values, as text: of the few cells in view, else of the one under the cursor. */
export function useTexts(base: string, shape: readonly number[], cut: Cut, view: View, cell: Cell | null) {
  const [found, setFound] = useState<{ slice: string; values: Values[] }>({ slice: "", values: [] });
  const slice = asPath(cut);
  const whole = extentOf(cut, shape);
  const [top, left] = [Math.max(0, Math.floor(view.top)), Math.max(0, Math.floor(view.left))];
  const [bottom, right] = [Math.min(whole.rows, Math.ceil(view.top + view.rows)), Math.min(whole.cols, Math.ceil(view.left + view.cols))];
  const few = bottom - top <= 64 && right - left <= 16;
  const area = few ? [top, bottom, left, right] : cell ? [cell.row, cell.row + 1, cell.col, cell.col + 1] : null;
  const wanted = useDeferred(area && !isReport ? `${slice}&rows=${area[0]}:${area[1]}&cols=${area[2]}:${area[3]}` : "", 90);
  useEffect(() => {
    if (!wanted.startsWith(`${slice}&`)) return;
    const stop = new AbortController();
    ask<Values>(`${base}/values?${wanted}`, stop.signal)
      .then((values) => {
        if (stop.signal.aborted) return;
        setFound((before) => ({ slice, values: [values, ...(before.slice === slice ? before.values : [])].slice(0, 8) }));
      })
      .catch(() => {}); // The window tells the number to seven digits, and what is wrong.
    return () => stop.abort();
  }, [slice, wanted]);
  return useMemo(() => {
    const values = found.slice === slice ? found.values : [];
    return (row: number, col: number): string | undefined => {
      for (const each of values) {
        const text = each.values[row - (each.rows[0] ?? 0)]?.[col - (each.cols[0] ?? 0)];
        if (text !== undefined) return text;
      }
      return undefined;
    };
  }, [found, slice]);
}
