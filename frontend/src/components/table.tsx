// A table of any length: only the rows in view are in the document. Tab reaches it and its titles; arrows,
// Page Up/Down, Home and End move its cursor, Enter or Space chooses the row under it.
//
//   <Table label="Tensors" columns={[{ key: "name", title: "Name", width: 240, grow: true, sort: (row) => row.name,
//     cell: (row) => row.name }]} rows={rows} selected={row} onSelect={(row) => ...} />

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import "./table.css";

export interface Column<Row> {
  key: string;
  title: string;
  /** Pixels; the least of them where it grows. */
  width: number;
  /** Whether it takes the room that is left. */
  grow?: boolean;
  align?: "left" | "right";
  /** What rows are sorted by; missing values come last either way. Without it the column is not sorted. */
  sort?: (row: Row) => string | number | null | undefined;
  /** What the title means, for those who point at it. */
  hint?: string;
  cell: (row: Row) => ComponentChildren;
}

export interface Sorting {
  key: string;
  down: boolean;
}

export interface TableProps<Row> {
  /** What it is a table of, for those who hear it. */
  label: string;
  columns: Column<Row>[];
  rows: readonly Row[];
  selected?: Row | null;
  onSelect?: (row: Row) => void;
  /** Called with the rows in view whenever they change. */
  onView?: (rows: Row[]) => void;
  /** Given together where rows come sorted already; else the table sorts by itself. */
  sorting?: Sorting | null;
  onSort?: (sorting: Sorting) => void;
  /** How a row stands in a tree; the table is a treegrid then, and Left and Right close and open. */
  branch?: (row: Row) => { level: number; open?: boolean };
  onOpen?: (row: Row, open: boolean) => void;
  rowClass?: (row: Row) => string;
  /** The most height it takes, in CSS; it scrolls in itself beyond. */
  height?: string;
  /** What is said where there are no rows. */
  none?: string;
}

const ROW = 27;
const SPARE = 6;

/** Sort rows by a column; equal rows keep their order. */
export function sorted<Row>(rows: readonly Row[], columns: Column<Row>[], sorting: Sorting | null): readonly Row[] {
  const by = columns.find((column) => column.key === sorting?.key)?.sort;
  if (!by || !sorting) return rows;
  const turn = sorting.down ? -1 : 1;
  const keys = rows.map(by);
  const places = Array.from(keys.keys());
  places.sort((one, other) => {
    const a = keys[one];
    const b = keys[other];
    if (a === b) return one - other;
    if (a === null || a === undefined) return b === null || b === undefined ? one - other : 1;
    if (b === null || b === undefined) return -1;
    return (a < b ? -1 : 1) * turn;
  });
  return places.map((place) => rows[place] as Row);
}

/** Tell all of a cell that is cut off to those who point at it. */
function tellWhole({ currentTarget: cell }: JSX.TargetedPointerEvent<HTMLDivElement>): void {
  cell.title = cell.scrollWidth > cell.clientWidth ? cell.innerText : "";
}

export function Table<Row>(props: TableProps<Row>) {
  const { columns, onSelect, branch, onOpen } = props;
  const [own, setOwn] = useState<Sorting | null>(null);
  const sorting = props.onSort ? (props.sorting ?? null) : own;
  const rows = useMemo(
    () => (props.onSort ? props.rows : sorted(props.rows, columns, own)),
    [props.rows, props.onSort === undefined, own],
  );
  const box = useRef<HTMLDivElement>(null);
  const id = useId();
  const [cursor, setCursor] = useState(0);
  const [view, setView] = useState({ top: 0, height: 600 });
  const at = Math.min(cursor, rows.length - 1);

  useLayoutEffect(() => {
    const element = box.current as HTMLDivElement;
    let frame = 0;
    const look = () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => setView({ top: element.scrollTop, height: element.clientHeight }));
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

  const show = (row: number) => {
    const element = box.current as HTMLDivElement;
    const room = element.clientHeight - ROW;
    if (row * ROW < element.scrollTop) element.scrollTop = row * ROW;
    else if ((row + 1) * ROW > element.scrollTop + room) element.scrollTop = (row + 1) * ROW - room;
  };
  useEffect(() => {
    const place = props.selected === null || props.selected === undefined ? -1 : rows.indexOf(props.selected);
    if (place >= 0) {
      setCursor(place);
      show(place);
    }
  }, [props.selected, rows]);

  const first = Math.max(0, Math.min(Math.floor(view.top / ROW) - SPARE, rows.length - 1));
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW) + SPARE);
  const seen = rows.slice(first, last);
  useEffect(() => props.onView?.(seen), [rows, first, last]);

  const move = (to: number) => {
    const place = Math.max(0, Math.min(rows.length - 1, to));
    setCursor(place);
    show(place);
  };
  const leave = (level: number) => {
    let up = at - 1;
    while (up >= 0 && (branch?.(rows[up] as Row).level ?? 0) >= level) up -= 1;
    if (up >= 0) move(up);
  };
  const onKeyDown = (event: JSX.TargetedKeyboardEvent<HTMLDivElement>) => {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = rows[at];
    const page = Math.max(1, Math.floor(view.height / ROW) - 2);
    const place = row !== undefined ? branch?.(row) : undefined;
    const keys: Record<string, () => void> = {
      ArrowDown: () => move(at + 1),
      ArrowUp: () => move(at - 1),
      PageDown: () => move(at + page),
      PageUp: () => move(at - page),
      Home: () => move(0),
      End: () => move(rows.length - 1),
      Enter: () => row !== undefined && onSelect?.(row),
      " ": () => row !== undefined && onSelect?.(row),
    };
    if (row !== undefined && place) {
      keys.ArrowRight = () => (place.open === false ? onOpen?.(row, true) : move(at + 1));
      keys.ArrowLeft = () => (place.open ? onOpen?.(row, false) : leave(place.level));
    }
    const act = Object.hasOwn(keys, event.key) ? keys[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  };

  const sortBy = (column: Column<Row>) => {
    const next = { key: column.key, down: sorting?.key === column.key ? !sorting.down : column.align === "right" };
    if (props.onSort) props.onSort(next);
    else setOwn(next);
  };
  const template = columns.map((column) => (column.grow ? `minmax(${column.width}px, 1fr)` : `${column.width}px`)).join(" ");
  const wide = { gridTemplateColumns: template, minWidth: columns.reduce((sum, column) => sum + column.width, 0) };

  return (
    <div
      ref={box}
      class="table"
      role={branch ? "treegrid" : "grid"}
      aria-label={props.label}
      aria-rowcount={rows.length + 1}
      aria-colcount={columns.length}
      aria-activedescendant={rows.length && at >= first && at < last ? `${id}-${at}` : undefined}
      tabIndex={0}
      style={{ maxHeight: props.height ?? "60vh" }}
      onKeyDown={onKeyDown}
    >
      <div class="table-head" role="row" aria-rowindex={1} style={wide}>
        {columns.map((column) => (
          <div
            key={column.key}
            role="columnheader"
            class={column.align === "right" ? "table-right" : ""}
            title={column.hint}
            aria-sort={sorting?.key !== column.key ? undefined : sorting.down ? "descending" : "ascending"}
          >
            {column.sort ? (
              <button onClick={() => sortBy(column)}>
                {column.title}
                <span aria-hidden="true">{sorting?.key !== column.key ? "" : sorting.down ? " ↓" : " ↑"}</span>
              </button>
            ) : (
              column.title
            )}
          </div>
        ))}
      </div>
      <div class="table-body" role="rowgroup" style={{ height: rows.length * ROW, minWidth: wide.minWidth }}>
        {seen.map((row, step) => {
          const place = first + step;
          const node = branch?.(row);
          return (
            <div
              key={place}
              id={`${id}-${place}`}
              role="row"
              class={`table-row${place === at ? " table-cursor" : ""} ${props.rowClass?.(row) ?? ""}`}
              aria-rowindex={place + 2}
              aria-selected={onSelect ? row === props.selected : undefined}
              aria-level={node?.level}
              aria-expanded={node?.open}
              style={{ ...wide, transform: `translateY(${place * ROW}px)` }}
              onClick={() => {
                setCursor(place);
                onSelect?.(row);
              }}
            >
              {columns.map((column) => (
                <div key={column.key} role="gridcell" class={column.align === "right" ? "table-right" : ""} onPointerEnter={tellWhole}>
                  {column.cell(row)}
                </div>
              ))}
            </div>
          );
        })}
      </div>
      {rows.length === 0 && <p class="soft table-none">{props.none ?? "nothing"}</p>}
    </div>
  );
}
