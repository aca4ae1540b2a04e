// A histogram of one tensor, or of two in the same bins (a and b overlaid). Pointing at a bin, or
// moving along them with Left and Right, tells its range and counts.
//
//   <Histogram label="Values of conv1" edges={edges} a={counts} />           edges: one more than counts

import { useState } from "preact/hooks";
import { count, many, number } from "../format";
import "./histogram.css";

export interface HistogramProps {
  /** What it is a histogram of, for those who hear it. */
  label: string;
  edges: readonly number[];
  a: readonly number[];
  b?: readonly number[];
  /** What a and b are called where there are both. */
  names?: readonly [string, string];
  /** Whether counts are drawn on a logarithmic scale. */
  log?: boolean;
  /** Pixels. */
  height?: number;
}

export function Histogram({ label, edges, a, b, names = ["a", "b"], log = false, height = 140 }: HistogramProps) {
  const [bin, setBin] = useState<number | null>(null);
  const bins = a.length;
  const low = edges[0] ?? 0;
  const high = edges[bins] ?? 1;
  if (bins === 0 || edges.length !== bins + 1) return <p class="soft">no values to count</p>;

  const span = high - low;
  // Where all edges are the same or too far apart to subtract, bins are drawn equally wide.
  const x = (edge: number) => (span > 0 && Number.isFinite(span) ? (((edges[edge] as number) - low) / span) * 1000 : (edge / bins) * 1000);
  const most = Math.max(1, ...a, ...(b ?? []));
  const y = (value: number) => (log ? Math.log1p(value) / Math.log1p(most) : value / most) * 100;
  const outline = (counts: readonly number[]) =>
    `M0 100${counts.map((value, i) => `L${x(i)} ${100 - y(value)}H${x(i + 1)}`).join("")}V100Z`;

  const find = (part: number) => {
    let i = 0;
    while (i < bins - 1 && x(i + 1) < part * 1000) i += 1;
    setBin(i);
  };
  const zero = low < 0 && high > 0 && Number.isFinite(span) ? (-low / span) * 1000 : null;
  const told = (i: number) => {
    const range = `${number(edges[i])} to ${number(edges[i + 1])}`;
    return b ? `${range}: ${names[0]} ${count(a[i] as number)}, ${names[1]} ${count(b[i] as number)}` : `${range}: ${count(a[i] as number)}`;
  };

  return (
    <figure class="histogram">
      <svg
        viewBox="0 0 1000 100"
        preserveAspectRatio="none"
        style={{ height }}
        role="img"
        aria-label={`${label}: histogram of ${bins} bins from ${number(low)} to ${number(high)}, at most ${count(most)} in one`}
        tabIndex={0}
        onPointerMove={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          find((event.clientX - box.left) / box.width);
        }}
        onPointerLeave={() => setBin(null)}
        onBlur={() => setBin(null)}
        onKeyDown={(event) => {
          const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
          if (event.key === "Escape") setBin(null);
          if (step === 0) return;
          event.preventDefault();
          setBin(Math.max(0, Math.min(bins - 1, bin === null ? (step > 0 ? 0 : bins - 1) : bin + step)));
        }}
      >
        <path class="histogram-a" d={outline(a)} />
        {b && <path class="histogram-b" d={outline(b)} />}
        {zero !== null && <line class="histogram-zero" x1={zero} x2={zero} y1="0" y2="100" />}
        {bin !== null && bin < bins && <rect class="histogram-bin" x={x(bin)} width={Math.max(1, x(bin + 1) - x(bin))} y="0" height="100" />}
      </svg>
      <div class="histogram-axis soft" aria-hidden="true">
        <span>{number(low)}</span>
        {zero !== null && zero > 150 && zero < 850 && <span style={{ position: "absolute", left: `${zero / 10}%` }}>0</span>}
        <span>{number(high)}</span>
      </div>
      <figcaption class="soft" aria-live="polite">
        {bin !== null && bin < bins ? (
          told(bin)
        ) : b ? (
          <>
            <i class="histogram-key-a" /> {names[0]} <i class="histogram-key-b" /> {names[1]}
          </>
        ) : (
          `${many(bins, "bin")}, at most ${count(most)}${log ? ", logarithmic" : ""}`
        )}
      </figcaption>
    </figure>
  );
}
