// What the colours of a heat map mean.

import { useMemo } from "preact/hooks";
import { number } from "../format";
import { useDark } from "./canvas";
import { colours, css, INFINITE, NAN, type Scale } from "./colour";
import "./legend.css";

interface LegendProps {
  scale: Scale;
  data: Float32Array;
  /** Whether the outermost values lie beyond the scale. */
  robust: boolean;
}

export function Legend({ scale, data, robust }: LegendProps) {
  const dark = useDark();
  const theme = dark ? "dark" : "light";
  const table = colours(scale.diverging, dark);
  const stops = Array.from({ length: 17 }, (_, i) => css(table[Math.min(255, i * 16)] ?? [0, 0, 0]));
  const { nan, infinite } = useMemo(() => ({ nan: data.some(Number.isNaN), infinite: data.some((value) => Math.abs(value) === Infinity) }), [data]);
  const note = `${robust ? "beyond: the outermost colours" : ""}`;
  return (
    <p class="legend">
      <span>{number(scale.low)}</span>
      <i class="legend-scale" style={{ background: `linear-gradient(to right, ${stops.join(",")})` }} />
      <span>{number(scale.high)}</span>
      {nan && (
        <span>
          <i class="legend-key" style={{ background: css(NAN[theme]) }} /> NaN
        </span>
      )}
      {infinite && (
        <span>
          <i class="legend-key" style={{ background: css(INFINITE[theme]) }} /> infinite
        </span>
      )}
      {note && <span class="soft">{note}</span>}
    </p>
  );
}
