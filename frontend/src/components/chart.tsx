// Series over steps: lines on a canvas, with the same told in a sentence and in a table.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { number } from "../format";
import { pageColour, useDark } from "./canvas";
import "./chart.css";
import { ChartTable, summary } from "./chart-words";

export interface Series {
  label: string;
  /** One for each x; null where there is none, as for what is not finite. */
  values: readonly (number | null)[];
}

export interface ChartProps {
  label: string;
  x: readonly number[];
  xLabel: string;
  series: readonly Series[];
  /** Whether the scale is logarithmic at first; undefined: whatever fits the values. */
  log?: boolean;
  height?: number;
  /** Charts of the same name move their cursors together. */
  together?: string;
  /** The place in x that is chosen, and those where something is to be looked at. */
  chosen?: number;
  marked?: readonly number[];
  /** What the marks mean. */
  markedAs?: string;
  choose?: (place: number) => void;
}

// Steps are whole numbers, and so are the distances of their ticks.
const STEPS = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((first) => first * 10 ** power)).flat();
const COLOURS = ["a", "b", "c", "d", "e", "f"];

/** Whether values differ so much in size that a logarithmic scale shows more. */
function spread(series: readonly Series[]): boolean {
  let low = Infinity;
  let high = 0;
  for (const { values } of series) {
    for (const value of values) {
      if (value === null) continue;
      if (value <= 0) return false;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return high / low > 100;
}

/** A number beside an axis, as short as it can be. */
function tick(value: number | null): string {
  if (value === null) return "";
  const short = Number(value.toPrecision(6));
  const size = Math.abs(short);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? short.toExponential().replace("e+", "e") : String(short);
}

/** Whole powers of ten alone get a line: the others would be a grey field. */
function decades(_: uPlot, splits: number[]): (number | null)[] {
  const whole = splits.map((split) => (Math.abs(Math.log10(split) % 1) < 1e-9 ? split : null));
  const many = whole.filter((split) => split !== null).length;
  if (many < 2) return splits;
  const every = Math.ceil(many / 6);
  let place = 0;
  return whole.map((split) => (split === null || place++ % every ? null : split));
}

function lines(plot: uPlot, places: readonly number[], stroke: string, dash: number[]): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash(dash.map((size) => size * devicePixelRatio));
  for (const place of places) {
    const at = plot.data[0][place];
    if (at === undefined) continue;
    const x = Math.round(plot.valToPos(at, "x", true)) + 0.5;
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function optionsOf(latest: { current: ChartProps }, log: boolean, hidden: ReadonlySet<number>, move: (place: number | null) => void) {
  const { series, together } = latest.current;
  const [ink, bad, here] = [pageColour("--soft"), pageColour("--bad"), pageColour("--ink")];
  const axis: uPlot.Axis = {
    stroke: ink,
    font: "11px system-ui, sans-serif",
    grid: { stroke: pageColour("--line"), width: 1 },
    ticks: { stroke: pageColour("--line"), width: 1, size: 4 },
  };
  const options: Omit<uPlot.Options, "width" | "height"> = {
    legend: { show: false },
    scales: { x: { time: false }, y: log ? { distr: 3, log: 10 } : {} },
    axes: [
      { ...axis, size: 30, incrs: STEPS, values: (_, ticks) => ticks.map(tick) },
      {
        ...axis,
        size: 62,
        values: (_, ticks) => ticks.map(tick),
        ...(log ? { filter: decades, grid: { ...axis.grid, filter: decades }, ticks: { ...axis.ticks, filter: decades } } : {}),
      },
    ],
    cursor: {
      y: false,
      points: { size: 7 },
      ...(together ? { sync: { key: together, setSeries: false } } : {}),
    },
    series: [
      {},
      ...series.map(({ label }, place) => ({
        label,
        show: !hidden.has(place),
        stroke: pageColour(`--${COLOURS[place % COLOURS.length]}`),
        width: 1.5,
        // Beyond six, the colours come again, dashed.
        ...(place < COLOURS.length ? {} : { dash: [6, 4] }),
        spanGaps: false,
      })),
    ],
    hooks: {
      setCursor: [(plot) => move(plot.cursor.idx ?? null)],
      draw: [
        (plot) => {
          const { marked = [], chosen } = latest.current;
          lines(plot, marked, bad, [3, 3]);
          if (chosen !== undefined) lines(plot, [chosen], here, []);
        },
      ],
    },
  };
  return options;
}

function dataOf(x: readonly number[], series: readonly Series[], log: boolean): uPlot.AlignedData {
  const shown = (value: number | null) => (value === null || !Number.isFinite(value) || (log && value <= 0) ? null : value);
  return [x.slice(), ...series.map(({ values }) => values.map(shown))];
}

export function Chart(props: ChartProps) {
  const { series, x, choose } = props;
  const holder = useRef<HTMLDivElement>(null);
  const shown = useRef<uPlot>();
  const pressed = useRef(0);
  const latest = useRef(props);
  latest.current = props;
  const [chosenLog, setLog] = useState<boolean | null>(null);
  const [hidden, setHidden] = useState<ReadonlySet<number>>(new Set());
  const [at, setAt] = useState<number | null>(null);
  const dark = useDark();
  const log = useMemo(() => chosenLog ?? props.log ?? spread(series), [chosenLog, props.log, series]);
  const data = useMemo(() => dataOf(x, series, log), [x, series, log]);
  const empty = data.slice(1).every((values) => (values as (number | null)[]).every((value) => value === null));
  const height = props.height ?? 180;
  // What can be given to a plot that is there is given to it below.
  useEffect(() => {
    const element = holder.current;
    if (!element || empty) return;
    const plot = new uPlot({ ...optionsOf(latest, log, hidden, setAt), height, width: element.clientWidth || 300 }, data, element);
    shown.current = plot;
    let frame = 0;
    const resized = new ResizeObserver(() => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => {
        const width = element.clientWidth || 300;
        if (width !== plot.width) plot.setSize({ width, height });
      });
    });
    resized.observe(element);
    return () => {
      shown.current = undefined;
      resized.disconnect();
      cancelAnimationFrame(frame);
      plot.destroy();
    };
  }, [empty, log, hidden, dark, height, props.together, series.length]);
  useEffect(() => {
    const plot = shown.current;
    if (plot && plot.data !== data) plot.setData(data);
  }, [data]);
  useEffect(() => shown.current?.redraw(false), [props.chosen, props.marked]);
  const toggle = (place: number) => {
    const next = new Set(hidden);
    if (!next.delete(place)) next.add(place);
    setHidden(next);
  };
  const told = at ?? props.chosen ?? x.length - 1;
  return (
    <figure class="chart" aria-label={props.label}>
      <figcaption class="chart-head">
        <strong class="name">{props.label}</strong>
        <label class="chart-log">
          <input type="checkbox" checked={log} onChange={(event) => setLog(event.currentTarget.checked)} /> log
        </label>
      </figcaption>
      {empty ? (
        <p class="soft">{log ? "There is no value above 0." : "There are no finite values."}</p>
      ) : (
        <div
          ref={holder}
          class="chart-plot"
          role="img"
          aria-label={summary(props)}
          title="Drag to look closer, double-click to see all"
          onPointerDown={(event) => (pressed.current = event.clientX)}
          onClick={(event) => choose && at !== null && Math.abs(event.clientX - pressed.current) < 4 && choose(at)}
        />
      )}
      <ul class="chart-legend" aria-label="Series">
        {series.map((each, place) => (
          <li key={place}>
            <button aria-pressed={!hidden.has(place)} class={`chart-key chart-${COLOURS[place % COLOURS.length]}`} onClick={() => toggle(place)}>
              <span class="name">{each.label}</span>
            </button>
            <output>{number(each.values[told])}</output>
          </li>
        ))}
        <li class="soft">
          at {props.xLabel} {number(x[told])}
        </li>
        {props.markedAs && (props.marked?.length ?? 0) > 0 && (
          <li class="soft">
            <i class="chart-marked" aria-hidden="true" /> {props.markedAs}
          </li>
        )}
      </ul>
      <ChartTable {...props} />
    </figure>
  );
}
