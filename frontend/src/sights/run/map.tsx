// Tensors × steps as a map: a row for each tensor, a column for each step. It is a list of the tensors:
// up and down choose one, left and right a step.

import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Course } from "../../answers";
import { pageColour, useCanvas, useDark } from "../../components/canvas";
import { css } from "../../components/colour";
import { count, number } from "../../format";
import { plain } from "../../names";
import type { Went } from "./findings";
import { brokenColour, coloursOf, type Shading } from "./measures";

const ROW = 20;
const SPARE = 4;

interface MapProps {
  course: Course;
  /** The tensors, in the order of the rows. */
  rows: readonly Went[];
  shading: Shading;
  /** The places of the tensor and the step that are chosen; -1: none. */
  tensor: number;
  step: number;
  choose: (tensor: number, step: number) => void;
}

/** A name that fits: both its ends tell it from others, the middle least. */
function fitted(name: string, room: number): string {
  const most = Math.max(8, Math.floor(room / 7.4));
  if (name.length <= most) return name;
  const tail = Math.ceil((most - 1) * 0.65);
  return `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}`;
}

/** What is known of a tensor at a step, in words. */
function told(course: Course, went: Went, step: number): string {
  const update = course.updates[went.place]?.[step];
  const broken = course.broken[went.place]?.[step] ?? 0;
  const times = update && went.median ? ` (${number(update / went.median)} × its median)` : "";
  return [
    `${plain(course.names[went.place] ?? "", 120)}, step ${course.steps[step]}`,
    `update ${number(update)}${times}`,
    `norm ${number(course.norms[went.place]?.[step])}`,
    broken > 0 && `${count(broken)} NaN or infinite`,
  ]
    .filter(Boolean)
    .join("; ");
}

export function CourseMap({ course, rows, shading, tensor, step, choose }: MapProps) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 400, names: 200 });
  const [over, setOver] = useState<[number, number] | null>(null);
  const id = useId();
  const dark = useDark();
  const many = course.steps.length;
  const at = rows.findIndex((row) => row.place === tensor);

  useLayoutEffect(() => {
    const element = box.current as HTMLDivElement;
    let frame = 0;
    const look = () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => setView({ top: element.scrollTop, height: element.clientHeight, names: canvas.current?.offsetLeft ?? 200 }));
    };
    const watch = new ResizeObserver(look);
    watch.observe(element);
    element.addEventListener("scroll", look, { passive: true });
    return () => {
      cancelAnimationFrame(frame);
      watch.disconnect();
      element.removeEventListener("scroll", look);
    };
  }, []);
  useEffect(() => {
    const element = box.current;
    if (!element || at < 0) return;
    if (at * ROW < element.scrollTop) element.scrollTop = at * ROW;
    else if ((at + 1) * ROW > element.scrollTop + element.clientHeight) element.scrollTop = (at + 1) * ROW - element.clientHeight;
  }, [at]);

  const first = Math.max(0, Math.floor(view.top / ROW) - SPARE);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW) + SPARE);
  const canvas = useCanvas(
    (ink, width) => {
      const table = coloursOf(shading.measure, dark).map(css);
      const [still, bad, ring, paper] = [pageColour("--raised"), css(brokenColour(dark)), pageColour("--ink"), pageColour("--paper")];
      const wide = width / many;
      const gap = wide > 6 ? 1 : 0;
      for (let row = first; row < last; row += 1) {
        const went = rows[row] as Went;
        const y = row * ROW - view.top;
        const cells = shading.cells[went.place] ?? [];
        for (let column = 0; column < many; column += 1) {
          const cell = cells[column] ?? -1;
          if (cell === -1) continue;
          ink.fillStyle = cell === -3 ? bad : cell === -2 ? still : (table[cell] ?? still);
          ink.fillRect(column * wide, y + 1, Math.max(wide - gap, 1), ROW - 2);
        }
        for (const column of went.jumps) {
          ink.fillStyle = ring;
          ink.beginPath();
          const [x, half] = [(column + 0.5) * wide, Math.max(2, Math.min(4, wide / 2))];
          ink.moveTo(x - half - 1, y + 1);
          ink.lineTo(x + half + 1, y + 1);
          ink.lineTo(x, y + 2 + 1.6 * half);
          ink.closePath();
          ink.fill();
          ink.lineWidth = 1;
          ink.strokeStyle = paper;
          ink.stroke();
        }
      }
      ink.strokeStyle = ring;
      ink.lineWidth = 1.5;
      const tall = Math.min(rows.length * ROW, view.height);
      ink.fillStyle = ring;
      if (step >= 0 && wide < 5) ink.fillRect(Math.round((step + 0.5) * wide), 0, 1, tall);
      else if (step >= 0) ink.strokeRect(step * wide + 0.5, -2, wide - gap - 1, tall + 4);
      if (at >= 0) ink.strokeRect(0, at * ROW - view.top + 0.5, width, ROW - 1);
    },
    [rows, shading, dark, first, last, view.top, view.height, at, step],
  );

  const cellAt = (event: { clientX: number; clientY: number }): [number, number] | null => {
    const element = box.current;
    const area = canvas.current?.getBoundingClientRect();
    if (!element || !area) return null;
    const row = Math.floor((event.clientY - area.top + element.scrollTop) / ROW);
    const column = Math.floor(((event.clientX - area.left) / area.width) * many);
    return row >= 0 && row < rows.length ? [row, column >= 0 && column < many ? column : -1] : null;
  };
  const chooseRow = (row: number, column = step) => {
    const went = rows[Math.max(0, Math.min(rows.length - 1, row))];
    if (went) choose(went.place, column);
  };
  const page = Math.max(1, Math.floor(view.height / ROW) - 1);
  const moves: Record<string, () => void> = {
    ArrowDown: () => chooseRow(at + 1),
    ArrowUp: () => chooseRow(at - 1),
    PageDown: () => chooseRow(at + page),
    PageUp: () => chooseRow(at - page),
    Home: () => chooseRow(0),
    End: () => chooseRow(rows.length - 1),
    ArrowRight: () => chooseRow(at, Math.min(many - 1, step + 1)),
    ArrowLeft: () => chooseRow(at, Math.max(0, step - 1)),
  };
  const pointed = over ?? (at >= 0 && step >= 0 ? ([at, step] as const) : null);
  const row = pointed && rows[pointed[0]];
  return (
    <div class="run-map">
      <div
        ref={box}
        class="run-map-rows"
        role="listbox"
        aria-label="Tensors over the steps"
        aria-activedescendant={at >= first && at < last ? `${id}-${at}` : undefined}
        tabIndex={0}
        style={{ height: `${Math.min(rows.length * ROW, 420)}px` }}
        onKeyDown={(event) => {
          const move = Object.hasOwn(moves, event.key) ? moves[event.key] : undefined;
          if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
          event.preventDefault();
          move();
        }}
        onPointerMove={(event) => {
          const cell = cellAt(event);
          setOver(cell && cell[1] >= 0 ? cell : null);
        }}
        onPointerLeave={() => setOver(null)}
        onClick={(event) => {
          const cell = cellAt(event);
          if (cell) chooseRow(cell[0], cell[1] >= 0 ? cell[1] : step);
        }}
      >
        <div style={{ height: `${rows.length * ROW}px` }}>
          {rows.slice(first, last).map((went, place) => (
            <div
              key={went.place}
              id={`${id}-${first + place}`}
              class={`run-map-row${went.broken >= 0 ? " run-map-broken" : ""}`}
              role="option"
              aria-label={plain(course.names[went.place] ?? "", 200)}
              aria-selected={first + place === at}
              aria-setsize={rows.length}
              aria-posinset={first + place + 1}
              title={plain(course.names[went.place] ?? "")}
              style={{ transform: `translateY(${(first + place) * ROW}px)`, height: `${ROW}px` }}
            >
              <span>{fitted(plain(course.names[went.place] ?? "", 200), view.names - 16)}</span>
            </div>
          ))}
        </div>
      </div>
      <canvas ref={canvas} class="run-map-cells" aria-hidden="true" />
      <div class="run-map-ends soft" aria-hidden="true">
        <span>step {course.steps[0]}</span>
        {many > 1 && <span>{course.steps[many - 1]}</span>}
      </div>
      <output class="run-map-told" aria-live="off">
        {row && pointed ? told(course, row, pointed[1]) : "Point at a cell, or use the arrow keys."}
      </output>
    </div>
  );
}
