// The lists of a comparison: tensors of both, tensors of one, values beside the tensors.

import { useMemo } from "preact/hooks";
import type { Change, DiffRow, Only } from "../../answers";
import { type Column, Table } from "../../components/table";
import { number, percent, shape } from "../../format";
import { order, plain } from "../../names";
import { kindOf, largest, NO_NUMBER, share } from "./words";

function both(one: string, other: string) {
  return one === other ? one : `${one} → ${other}`;
}

/** How large a difference is among the others, on a logarithmic scale: 0 to 1. */
function loudness(rows: readonly DiffRow[]): (row: DiffRow) => number {
  const sizes = rows.flatMap((row) => (row.max ? [Math.log10(row.max)] : []));
  const high = sizes.reduce((most, size) => Math.max(most, size), -Infinity);
  const low = Math.max(sizes.reduce((least, size) => Math.min(least, size), Infinity), high - 8);
  return (row) => {
    if (!row.max) return 0;
    return high > low ? 0.06 + 0.94 * Math.max(0, (Math.log10(row.max) - low) / (high - low)) : 1;
  };
}

function Bar({ part }: { part: number }) {
  return (
    <span class="diff-bar" aria-hidden="true">
      <i style={{ width: `${part * 100}%` }} />
    </span>
  );
}

export function Rows({ rows, row, choose }: { rows: readonly DiffRow[]; row: DiffRow | null; choose: (row: DiffRow) => void }) {
  const columns = useMemo<Column<DiffRow>[]>(() => {
    const loud = loudness(rows);
    return [
      { key: "name", title: "Name", width: 190, grow: true, sort: (each) => order(each.name), cell: (each) => plain(each.name) },
      {
        key: "max",
        title: "Largest",
        hint: "The largest of the absolute differences",
        width: 150,
        align: "right",
        sort: (each) => each.max,
        cell: (each) => (
          <span class="diff-largest">
            {each.max === null ? <span /> : <Bar part={loud(each)} />} {largest(each)}
          </span>
        ),
      },
      { key: "mean", title: "Mean", hint: "The mean of the absolute differences", width: 96, align: "right", sort: (each) => each.mean, cell: (each) => (largest(each) === NO_NUMBER ? "–" : number(each.mean)) },
      {
        key: "cosine",
        title: "Cosine",
        hint: "Of the angle between both as vectors: 1 where they point the same way",
        width: 88,
        align: "right",
        sort: (each) => each.cosine,
        cell: (each) => number(each.cosine),
      },
      { key: "share", title: "Differing", hint: "The share of the elements that differ", width: 92, align: "right", sort: share, cell: (each) => percent(share(each)) },
      { key: "kind", title: "Changed", width: 140, sort: kindOf, cell: kindOf },
      { key: "dtype", title: "Dtype", width: 170, sort: (each) => each.dtypes.join(), cell: (each) => both(each.dtypes[0] ?? "", each.dtypes[1] ?? "") },
      { key: "shape", title: "Shape", width: 170, cell: (each) => both(shape(each.shapes[0] ?? []), shape(each.shapes[1] ?? [])) },
    ];
  }, [rows]);
  return <Table label="Tensors of both" columns={columns} rows={rows} selected={row} onSelect={choose} height="48vh" none="No tensor is listed." />;
}

const ONLY: Column<Only>[] = [
  { key: "name", title: "Name", width: 240, grow: true, sort: (row) => order(row.name), cell: (row) => plain(row.name) },
  { key: "dtype", title: "Dtype", width: 100, sort: (row) => row.dtype, cell: (row) => row.dtype },
  { key: "shape", title: "Shape", width: 180, cell: (row) => shape(row.shape) },
];

export function OnlyRows({ side, rows, open }: { side: "A" | "B"; rows: readonly Only[]; open: (row: Only) => void }) {
  return <Table label={`Only in ${side}`} columns={ONLY} rows={rows} onSelect={open} height="48vh" none="No tensor is listed." />;
}

const VALUES: Column<Change>[] = [
  { key: "place", title: "Place", width: 180, grow: true, sort: (row) => order(row.place), cell: (row) => plain(row.place) },
  { key: "a", title: "A", width: 200, grow: true, sort: (row) => row.a, cell: (row) => <code>{plain(row.a)}</code> },
  { key: "b", title: "B", width: 200, grow: true, sort: (row) => row.b, cell: (row) => <code>{plain(row.b)}</code> },
];

export function ValueRows({ rows, row, choose }: { rows: readonly Change[]; row: Change | null; choose: (row: Change) => void }) {
  return <Table label="Values beside the tensors" columns={VALUES} rows={rows} selected={row} onSelect={choose} height="48vh" none="No value is listed." />;
}
