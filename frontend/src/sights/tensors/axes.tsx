// Which two axes are drawn, and the places on the others.

import type { Cut } from "./slicing";

interface AxesProps {
  shape: readonly number[];
  cut: Cut;
  onCut: (cut: Cut) => void;
}

export function Axes({ shape, cut, onCut }: AxesProps) {
  const [down = 0, right = 1] = cut.axes;
  const choose = (which: "down" | "right", axis: number) => {
    const before = { down, right };
    const next = { ...before, [which]: axis };
    // The axis that the other one had is given in exchange.
    if (next.down === next.right) next[which === "down" ? "right" : "down"] = before[which];
    const at = cut.at.map((place, i) => (i === next.down || i === next.right ? 0 : place));
    onCut({ axes: [next.down, next.right], at });
  };
  const move = (axis: number, place: number) => {
    if (!Number.isInteger(place)) return;
    const held = Math.max(0, Math.min((shape[axis] ?? 1) - 1, place));
    onCut({ ...cut, at: cut.at.map((each, i) => (i === axis ? held : each)) });
  };
  const axes = shape.map((length, axis) => (
    <option key={axis} value={axis}>
      {axis} ({length})
    </option>
  ));
  return (
    <div class="tensors-axes">
      <label>
        axis down{" "}
        <select value={down} onChange={(event) => choose("down", Number(event.currentTarget.value))}>
          {axes}
        </select>
      </label>
      <label>
        axis right{" "}
        <select value={right} onChange={(event) => choose("right", Number(event.currentTarget.value))}>
          {axes}
        </select>
      </label>
      {shape.map((length, axis) =>
        axis === down || axis === right ? null : (
          <div key={axis} class="tensors-place">
            <span id={`axis-${axis}`}>
              axis {axis} <span class="soft">of {length}</span>
            </span>
            <input type="range" aria-labelledby={`axis-${axis}`} min={0} max={length - 1} value={cut.at[axis]} disabled={length < 2} onInput={(event) => move(axis, event.currentTarget.valueAsNumber)} />
            <input type="number" aria-labelledby={`axis-${axis}`} min={0} max={length - 1} value={cut.at[axis]} disabled={length < 2} onInput={(event) => move(axis, event.currentTarget.valueAsNumber)} />
          </div>
        ),
      )}
    </div>
  );
}
