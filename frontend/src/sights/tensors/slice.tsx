// A 2-D slice of a tensor as a heat map, of a vector as a line too; the axes, the places on the others,
// the scale of colours, and the value under the cursor.

import { useMemo, useState } from "preact/hooks";
import type { Window } from "../../answers";
import { type Binary, isReport } from "../../ask";
import { type Cell, Heatmap, sampledAt, valueAt } from "../../components/heatmap";
import { scaleOf } from "../../components/colour";
import { Legend } from "../../components/legend";
import { all, isAll, type View, zoomed } from "../../components/view";
import { count } from "../../format";
import { plain } from "../../names";
import { Axes } from "./axes";
import { Line } from "./line";
import { type Cut, extentOf, usePanes, useTexts } from "./slicing";

interface SliceProps {
  base: string;
  shape: readonly number[];
  first: Binary<Window>;
}

type Scaling = "auto" | "centred" | "range";

/** The place of a cell on every axis. */
export function indexOf(cut: Cut, { row, col }: Cell): number[] {
  const index = [...cut.at];
  const [down, right] = cut.axes.length > 1 ? cut.axes : [undefined, cut.axes[0]];
  if (down !== undefined) index[down] = row;
  if (right !== undefined) index[right] = col;
  return index;
}

export function Slice({ base, shape, first }: SliceProps) {
  const [cut, setCut] = useState<Cut>({ axes: first.head.axes, at: first.head.at });
  const whole = extentOf(cut, shape);
  const [view, setView] = useState<View>(() => all(whole));
  const [cell, setCell] = useState<Cell | null>(null);
  const [robust, setRobust] = useState(false);
  const [scaling, setScaling] = useState<Scaling>("auto");
  const { panes, problem, busy } = usePanes(base, shape, cut, first, view);
  const text = useTexts(base, shape, cut, view, cell);

  const change = (next: Cut) => {
    const extent = extentOf(next, shape);
    if (extent.rows !== whole.rows || extent.cols !== whole.cols) setView(all(extent));
    setCut(next);
    setCell(null);
  };
  // The scale is that of the coarse window, so that colours stay what they are in going nearer.
  const coarse = panes[0] ?? first;
  const scale = useMemo(() => {
    const { low, high } = coarse.head;
    // Numbers far from 0 and on one side of it would all have the same colour.
    const far = low !== null && high !== null && (low > 0.2 * high || high < 0.2 * low) && low * high > 0 && low !== high;
    return scaleOf(coarse.data, { robust, centred: scaling === "centred" || (scaling === "auto" && !far) });
  }, [coarse, robust, scaling]);

  const vector = whole.rows === 1;
  const height = vector ? 34 : whole.cols > 4 * whole.rows ? 130 : undefined;
  const zoom = (factor: number) =>
    setView(zoomed(view, whole, factor, cell ? cell.row + 0.5 : view.top + view.rows / 2, cell ? cell.col + 0.5 : view.left + view.cols / 2));
  const label = `Slice of ${whole.rows} rows and ${whole.cols} columns; arrows move the cell's cursor, plus and minus zoom`;
  return (
    <div class="tensors-slice">
      {shape.length > 1 && !isReport && <Axes shape={shape} cut={cut} onCut={change} />}
      <div class="tensors-row">
        <span role="group" aria-label="Zoom" class="tensors-zoom">
          <button onClick={() => zoom(0.5)} aria-label="Zoom in" title="Zoom in (+)">
            +
          </button>
          <button onClick={() => zoom(2)} aria-label="Zoom out" title="Zoom out (-)" disabled={isAll(view, whole)}>
            −
          </button>
          <button onClick={() => setView(all(whole))} title="Show all (0)" disabled={isAll(view, whole)}>
            All
          </button>
        </span>
        <label>
          colours{" "}
          <select value={scaling} onChange={(event) => setScaling(event.currentTarget.value as Scaling)}>
            <option value="auto">automatic</option>
            <option value="centred">around 0</option>
            <option value="range">low to high</option>
          </select>
        </label>
        <label title="leaves out the outermost hundredth at each end">
          <input type="checkbox" checked={robust} onChange={(event) => setRobust(event.currentTarget.checked)} /> robust range
        </label>
      </div>
      {vector && <Line panes={panes} view={view} whole={whole} cell={cell} />}
      <Heatmap label={label} whole={whole} panes={panes} scale={scale} view={view} onView={setView} cell={cell} onCell={setCell} text={text} height={height} />
      <Readout cut={cut} cell={cell} panes={panes} text={text} />
      <Legend scale={scale} data={coarse.data} robust={robust} />
      <p class="soft tensors-told">
        {vector ? "" : `rows ${part(view.top, view.rows, whole.rows)}, `}
        {vector ? "elements" : "columns"} {part(view.left, view.cols, whole.cols)}
        {busy ? " · reading" : coarseOf(panes, view, vector)}
      </p>
      {isReport && <p class="soft">The report holds this slice only, as it is here; the file itself shows others, finer.</p>}
      {problem && <p class="problem" role="alert">{problem}</p>}
    </div>
  );
}

function part(from: number, length: number, all: number): string {
  return `${count(Math.floor(from))} to ${count(Math.min(all, Math.ceil(from + length)) - 1)} of ${count(all)}`;
}

/** Whether rows or columns in view are left out. */
function coarseOf(panes: Binary<Window>[], view: View, one: boolean): string {
  const inView = panes.filter(({ head }) => (head.rows[0] ?? 0) <= view.top + 1 && (head.rows[1] ?? 0) >= view.top + view.rows - 1 && (head.cols[0] ?? 0) <= view.left + 1 && (head.cols[1] ?? 0) >= view.left + view.cols - 1);
  const [rows, cols] = inView[inView.length - 1]?.head.steps ?? [1, 1];
  if ((rows ?? 1) === 1 && (cols ?? 1) === 1) return "";
  const drawn = [rows !== 1 && `one row in ${rows}`, cols !== 1 && `one ${one ? "element" : "column"} in ${cols}`].filter(Boolean);
  return ` · ${drawn.join(" and ")} is drawn${isReport ? "" : "; zoom in for all"}`;
}

interface ReadoutProps {
  cut: Cut;
  cell: Cell | null;
  panes: Binary<Window>[];
  text: (row: number, col: number) => string | undefined;
}

/** The shortest number that is the same as a float32. */
function shortest(value: number): string {
  for (let digits = 6; digits < 9; digits += 1) {
    const near = Number(value.toPrecision(digits));
    if (Math.fround(near) === value) return String(near);
  }
  return String(Number(value.toPrecision(9)));
}

function Readout({ cut, cell, panes, text }: ReadoutProps) {
  if (!cell) return <p class="tensors-readout soft">point at a cell, or move with the arrows, to see its value</p>;
  // A report has no others than those it draws.
  const told = isReport ? sampledAt(panes, cell) : cell;
  const exact = text(told.row, told.col);
  const near = valueAt(panes, told.row, told.col);
  return (
    <p class="tensors-readout mono" role="status">
      [{indexOf(cut, told).join(", ")}] <output>{exact !== undefined ? plain(exact, 600) : near !== undefined ? `${isReport ? "" : "≈ "}${shortest(near)}` : "…"}</output>
    </p>
  );
}
