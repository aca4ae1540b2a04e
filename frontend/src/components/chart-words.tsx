// What a chart shows, in words and in a table: for those who do not see it, and to copy from.

import { useState } from "preact/hooks";
import { number } from "../format";
import type { ChartProps, Series } from "./chart";

const MOST_ROWS = 2000;

function told(series: Series, x: readonly number[], xLabel: string): string {
  let first = -1;
  let last = -1;
  let low = -1;
  let high = -1;
  series.values.forEach((value, place) => {
    if (value === null || !Number.isFinite(value)) return;
    if (first < 0) first = low = high = place;
    last = place;
    if (value < (series.values[low] ?? Infinity)) low = place;
    if (value > (series.values[high] ?? -Infinity)) high = place;
  });
  if (first < 0) return `${series.label}: no finite values`;
  const say = (place: number) => `${number(series.values[place])} at ${xLabel} ${number(x[place])}`;
  return `${series.label}: from ${say(first)} to ${say(last)}, lowest ${say(low)}, highest ${say(high)}`;
}

/** A chart in a sentence for each of its series. */
export function summary({ label, series, x, xLabel }: ChartProps): string {
  return `${label}. ${series.map((each) => told(each, x, xLabel)).join("; ")}.`;
}

export function ChartTable({ label, series, x, xLabel }: ChartProps) {
  const [open, setOpen] = useState(false);
  return (
    <details class="chart-table" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>As a table</summary>
      {open && (
        <div class="chart-scroll" tabIndex={0} role="region" aria-label={`${label} as a table`}>
          <table>
            <thead>
              <tr>
                <th scope="col">{xLabel}</th>
                {series.map((each, place) => (
                  <th key={place} scope="col" class="name">
                    {each.label}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {x.slice(0, MOST_ROWS).map((at, place) => (
                <tr key={place}>
                  <th scope="row">{number(at)}</th>
                  {series.map((each, column) => (
                    <td key={column}>{number(each.values[place])}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
          {x.length > MOST_ROWS && <p class="soft">The first {MOST_ROWS} of {x.length} rows.</p>}
        </div>
      )}
    </details>
  );
}
