// A vector as a line, above its row of colours: both show the same part of it.

import type { Window } from "../../answers";
import type { Binary } from "../../ask";
import { pageColour, useCanvas, useDark } from "../../components/canvas";
import type { Cell } from "../../components/heatmap";
import type { Extent, View } from "../../components/view";
import { number } from "../../format";

interface LineProps {
  panes: Binary<Window>[];
  view: View;
  whole: Extent;
  cell: Cell | null;
}

export function Line({ panes, view, whole, cell }: LineProps) {
  const dark = useDark();
  const canvas = useCanvas(
    (ink, width, height) => {
      const [text, stroke, line] = [pageColour("--soft"), pageColour("--a"), pageColour("--line")];
      const x = (col: number) => ((col + 0.5 - view.left) / view.cols) * width;
      // The finest pane that holds all that is in view.
      const pane = [...panes].reverse().find(({ head }) => (head.cols[0] ?? 0) <= view.left && (head.cols[1] ?? 0) >= Math.min(whole.cols, view.left + view.cols)) ?? panes[0];
      if (!pane) return;
      const [from, step] = [pane.head.cols[0] ?? 0, pane.head.steps[1] ?? 1];
      // As high as what is in view needs; the colours below keep their scale.
      const seen = pane.data.filter((value, i) => Number.isFinite(value) && from + i * step >= view.left - step && from + i * step < view.left + view.cols + step);
      const low = seen.reduce((least, value) => Math.min(least, value), Infinity);
      const high = seen.reduce((most, value) => Math.max(most, value), -Infinity);
      if (seen.length === 0) return;
      const y = (value: number) => (high > low ? height - 16 - ((value - low) / (high - low)) * (height - 32) : height / 2);
      ink.strokeStyle = line;
      if (low < 0 && high > 0) ink.strokeRect(0, y(0), width, 0);
      ink.strokeStyle = stroke;
      ink.fillStyle = stroke;
      ink.lineWidth = 1.25;
      ink.lineJoin = "round";
      ink.beginPath();
      let pen = false;
      pane.data.forEach((value, i) => {
        if (!Number.isFinite(value)) pen = false;
        else if (pen) ink.lineTo(x(from + i * step), y(value));
        else {
          ink.moveTo(x(from + i * step), y(value));
          pen = true;
        }
      });
      ink.stroke();
      if ((width / view.cols) * step > 9) {
        pane.data.forEach((value, i) => Number.isFinite(value) && ink.fillRect(x(from + i * step) - 2, y(value) - 2, 4, 4));
      }
      if (cell) {
        ink.strokeStyle = text;
        ink.lineWidth = 1;
        ink.strokeRect(x(cell.col), 0, 0, height);
      }
      ink.fillStyle = text;
      ink.font = "11px system-ui, sans-serif";
      ink.fillText(number(high), 4, 12);
      if (low < high) ink.fillText(number(low), 4, height - 4);
    },
    [panes, view, cell, dark],
  );
  return <canvas ref={canvas} class="tensors-line" aria-hidden="true" />;
}
