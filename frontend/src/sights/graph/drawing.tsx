// The canvas with what belongs to it: keys, the status of the layout, and what is said aloud.

import type { RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { many } from "../../format";
import type { Drawn } from "./drawn";
import { Stage } from "./stage";
import { beside, nextAlong, saidOf } from "./walk";

/** How the view follows the chosen box: not, only if it is out of sight, or to its middle. */
export type Follow = "not" | "gently" | "fully";

export interface DrawingProps {
  drawn: Drawn;
  box: number;
  /** Counts up when a box is chosen, though it may be the one that is. */
  sought: number;
  follow: RefObject<Follow>;
  choose: (box: number, how: Follow) => void;
  open: (box: number) => void;
  nodes: number;
}

const STEP = 80;

export function Drawing({ drawn, box, sought, follow, choose, open, nodes }: DrawingProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const stage = useRef<Stage | null>(null);
  const now = useRef({ choose, open });
  now.current = { choose, open };
  const { scene } = drawn;

  useEffect(() => {
    const made = new Stage(canvas.current!, {
      choose: (at) => now.current.choose(at, "not"),
      open: (at) => now.current.open(at),
    });
    stage.current = made;
    return () => made.end();
  }, []);
  useEffect(() => stage.current?.show(scene), [scene]);
  useEffect(() => stage.current?.mark(scene ? box : -1), [scene, box]);
  useEffect(() => {
    const how = follow.current ?? "fully";
    follow.current = "fully";
    if (scene && box >= 0 && how !== "not") stage.current?.centre(box, how === "gently");
  }, [sought, box, scene]);

  const press = (event: KeyboardEvent) => {
    const view = stage.current;
    if (!view || !scene || event.ctrlKey || event.metaKey) return;
    const step = event.shiftKey ? STEP * 5 : STEP;
    const walk = (to: number) => (to >= 0 ? (choose(to, "gently"), true) : false);
    let done = true;
    if (event.altKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      done = walk(beside(scene, box, event.key === "ArrowRight" ? 1 : -1));
    } else if (event.key === "ArrowLeft") view.pan(step, 0);
    else if (event.key === "ArrowRight") view.pan(-step, 0);
    else if (event.key === "ArrowUp") view.pan(0, step);
    else if (event.key === "ArrowDown") view.pan(0, -step);
    else if (event.key === "+" || event.key === "=") view.zoom(1.25);
    else if (event.key === "-") view.zoom(0.8);
    else if (event.key === "0") view.fit();
    else if (event.key === "Enter") walk(nextAlong(scene, box, !event.shiftKey));
    else if (event.key === "Tab" && box >= 0) done = walk(nextAlong(scene, box, !event.shiftKey));
    else if (event.key === "o" && box >= 0) open(box);
    else if (event.key === "Escape" && box >= 0) choose(-1, "not");
    else done = false;
    if (done) event.preventDefault();
  };
  const percent = Math.round(drawn.part * 100);
  return (
    <div class="graph-drawing">
      <canvas
        ref={canvas}
        tabIndex={0}
        role="application"
        aria-label={`Graph of ${many(nodes, "node")}`}
        aria-describedby="graph-keys"
        onKeyDown={press}
      />
      <p id="graph-keys" class="graph-hidden">
        Arrows move the view, plus and minus zoom, 0 shows all. Enter and Tab go to the next node along the links, with Shift to the one
        before, Alt with left and right to one beside it, o opens what is inside, Escape lets go.
      </p>
      <p class="graph-hidden" aria-live="polite">
        {scene && box >= 0 ? saidOf(scene, box) : ""}
      </p>
      {!scene && !drawn.error && (
        <div class="graph-status" role="status">
          <p>
            laying out {many(nodes, "node")}{percent > 0 && `: ${percent} %`}
          </p>
          <progress value={drawn.part} aria-label="Layout" />
          <button onClick={drawn.hurry}>Quick layout</button>
        </div>
      )}
      {drawn.error && (
        <p class="graph-status problem" role="alert">
          {drawn.error}
        </p>
      )}
      {scene && scene.picture.boxes.length === 0 && <p class="graph-status soft">This part has no nodes.</p>}
      <div class="graph-zoom" role="group" aria-label="Zoom">
        <button aria-label="Zoom in" onClick={() => stage.current?.zoom(1.4)}>
          +
        </button>
        <button aria-label="Zoom out" onClick={() => stage.current?.zoom(1 / 1.4)}>
          −
        </button>
        <button aria-label="Show all" onClick={() => stage.current?.fit()}>
          ⤢
        </button>
      </div>
    </div>
  );
}
