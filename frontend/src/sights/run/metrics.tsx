// What was measured, over the steps: a chart for each metric.

import { useMemo } from "preact/hooks";
import type { Step } from "../../answers";
import { Chart } from "../../components/chart";
import { plain } from "../../names";

const MOST = 24;

interface MetricsProps {
  steps: readonly Step[];
  chosen: number;
  choose: (place: number) => void;
}

export function Metrics({ steps, chosen, choose }: MetricsProps) {
  const charts = useMemo(() => {
    const names = [...new Set(steps.flatMap((step) => Object.keys(step.metrics)))];
    return names
      .filter((name) => steps.some((step) => typeof step.metrics[name] === "number"))
      .slice(0, MOST)
      .map((name) => {
        const values = steps.map((step) => (Object.hasOwn(step.metrics, name) ? step.metrics[name] : null));
        return {
          name: plain(name, 80),
          series: [{ label: plain(name, 80), values: values.map((value) => (typeof value === "number" ? value : null)) }],
          // Text in place of a number: nan, inf.
          marked: values.flatMap((value, place) => (typeof value === "string" ? [place] : [])),
        };
      });
  }, [steps]);
  const x = useMemo(() => steps.map((step) => step.step), [steps]);
  if (charts.length === 0 || steps.length < 2) return null;
  return (
    <section class="run-metrics" aria-label="Metrics">
      <h2>Metrics</h2>
      <div class="run-charts">
        {charts.map((chart) => (
          <Chart
            key={chart.name}
            label={chart.name}
            x={x}
            xLabel="step"
            series={chart.series}
            marked={chart.marked}
            markedAs="not finite"
            together="run"
            height={150}
            chosen={chosen < 0 ? undefined : chosen}
            choose={choose}
          />
        ))}
      </div>
    </section>
  );
}
