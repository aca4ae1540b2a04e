// The columns of the table of tensors. A row is a node of the tree.

import type { Statistics, Tensors } from "../../answers";
import type { Column } from "../../components/table";
import { bytes, count, many, number, percent, shape } from "../../format";
import { plain } from "../../names";
import { broken, type Known } from "./statistics";
import { isBranch, labelOf, nameOrder, type Totals, type Tree } from "./tree";

export interface ColumnsOf {
  tree: Tree;
  tensors: Tensors;
  totals: Totals;
  known: Known;
  /** Bytes of all that is listed. */
  all: number;
  /** By node: how many values below are no numbers or infinite. */
  damage: Map<number, number>;
  /** Whether rows are whole names and no branches. */
  flat: boolean;
  levels: Map<number, number>;
  /** Whether there is less room, as beside the tensor that is chosen. */
  beside: boolean;
  isOpen: (node: number) => boolean;
  onOpen: (node: number, open: boolean) => void;
}

/** A figure, with ≈ where it is a sample's. */
export function figure(found: Statistics | undefined, value: number | null | undefined): string {
  if (!found) return "";
  if (value === null || value === undefined) return "–";
  return `${found.exact ? "" : "≈ "}${number(value)}`;
}

/** How many values are such, of which a sample tells but that there are so many at least. */
export function counted(found: Statistics, values: number): string {
  return `${found.exact ? "" : values ? "≥ " : "≈ "}${count(values)}`;
}

export function share(part: number, whole: number): string {
  return percent(whole ? part / whole : null);
}

/** How many of the values are 0. */
export function zeros(found: Statistics | undefined): string {
  if (!found) return "";
  return `${found.exact ? "" : "≈ "}${share(found.zeros, found.measured)}`;
}

function Name({ node, of }: { node: number; of: ColumnsOf }) {
  const { tree, flat } = of;
  const tensor = tree.tensors[node] as number;
  const whole = flat ? (tree.names[tensor] as string) : labelOf(tree, node);
  const remark = Object.hasOwn(of.tensors.remarks, tensor) ? of.tensors.remarks[tensor] : undefined;
  const level = of.levels.get(node) ?? 1;
  const told = plain(whole, 200);
  return (
    <span class="tensors-name" style={{ paddingLeft: flat ? 0 : (level - 1) * 14 }}>
      {!flat &&
        (tensor < 0 ? (
          <span
            class="tensors-twist"
            aria-hidden="true"
            onClick={(event) => {
              event.stopPropagation();
              of.onOpen(node, !of.isOpen(node));
            }}
          >
            {of.isOpen(node) ? "▾" : "▸"}
          </span>
        ) : (
          <span class="tensors-twist" />
        ))}
      <bdi class={tensor < 0 ? "tensors-branch" : ""} title={plain(flat || tensor < 0 ? whole : (tree.names[tensor] as string), 600)}>
        {told}
      </bdi>
      {remark && (
        <i class="tensors-remark" title={plain(remark)}>
          {" "}
          {plain(remark, 80)}
        </i>
      )}
    </span>
  );
}

export function columnsOf(of: ColumnsOf): Column<number>[] {
  const { tree, tensors, totals, known, damage } = of;
  const tensor = (node: number) => tree.tensors[node] as number;
  const found = (node: number) => (tensor(node) < 0 ? undefined : known.of(tensor(node)));
  const { all } = of;
  const measured = (key: "min" | "max" | "mean" | "std", title: string): Column<number> => ({
    key,
    title,
    width: of.beside ? 86 : 104,
    align: "right",
    sort: (node) => found(node)?.[key],
    cell: (node) => figure(found(node), found(node)?.[key]),
  });
  return [
    { key: "name", title: "Name", width: of.beside ? 178 : 210, grow: true, sort: (node) => nameOrder(tree, node, of.flat), cell: (node) => <Name node={node} of={of} /> },
    {
      key: "shape",
      title: "Shape",
      width: of.beside ? 108 : 132,
      hint: "sorted by the number of elements",
      sort: (node) => totals.size[node],
      cell: (node) =>
        isBranch(tree, node) ? <span class="soft">{many(totals.count[node] as number, "tensor")}</span> : shape((tensors.shapes[tensor(node)] ?? []).slice(0, 32)),
    },
    { key: "dtype", title: "Dtype", width: of.beside ? 94 : 104, sort: (node) => tensors.dtypes[tensor(node)], cell: (node) => tensors.dtypes[tensor(node)] ?? "" },
    { key: "size", title: "Size", width: of.beside ? 76 : 84, align: "right", sort: (node) => totals.nbytes[node], cell: (node) => bytes(totals.nbytes[node] as number) },
    measured("min", "Min"),
    measured("max", "Max"),
    measured("mean", "Mean"),
    measured("std", "Std"),
    {
      key: "zeros",
      title: "Zeros",
      width: 80,
      align: "right",
      sort: (node) => {
        const one = found(node);
        return one?.measured ? one.zeros / one.measured : null;
      },
      cell: (node) => zeros(found(node)),
    },
    {
      key: "broken",
      title: "NaN/Inf",
      width: 84,
      align: "right",
      sort: (node) => (isBranch(tree, node) ? damage.get(node) : found(node) && broken(found(node))),
      cell: (node) => {
        const one = found(node);
        const bad = isBranch(tree, node) ? (damage.get(node) ?? 0) : broken(one);
        if (bad === 0) return one ? <span class="soft">{counted(one, 0)}</span> : "";
        return <b class="tensors-bad">{one ? counted(one, bad) : `≥ ${count(bad)}`}</b>;
      },
    },
    {
      key: "share",
      title: "Share",
      width: 112,
      align: "right",
      hint: "of the bytes of all tensors that are listed",
      sort: (node) => totals.nbytes[node],
      cell: (node) => (
        <span class="tensors-share">
          <i style={{ width: `${all ? (38 * (totals.nbytes[node] as number)) / all : 0}%` }} />
          {share(totals.nbytes[node] as number, all)}
        </span>
      ),
    },
  ];
}
