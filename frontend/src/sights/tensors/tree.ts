// The names as a tree, by the sign that most of them are parted with. Nodes are numbers, given in such
// an order that a branch comes before all that is in it: totals are one pass from the last to the first.

import { order } from "../../names";

export interface Tree {
  names: readonly string[];
  separator: string;
  /** By node: the part of the name that it adds. */
  labels: string[];
  parents: number[];
  /** By node: the place in the listing; -1 for a branch. */
  tensors: number[];
  children: (number[] | undefined)[];
  /** By place in the listing. */
  nodes: Int32Array;
}

export interface Totals {
  /** By node; of what is searched for only. */
  count: Float64Array;
  nbytes: Float64Array;
  size: Float64Array;
}

export const ROOT = 0;
// Deeper names stay whole from there on, however they are made.
const DEEPEST = 30;

export function separatorOf(names: readonly string[]): string {
  const step = Math.max(1, Math.floor(names.length / 1000));
  let [slashes, seen] = [0, 0];
  for (let i = 0; i < names.length; i += step) {
    seen += 1;
    if ((names[i] as string).includes("/")) slashes += 1;
  }
  return slashes * 2 > seen ? "/" : ".";
}

export function treeOf(names: readonly string[]): Tree {
  const tree: Tree = {
    names,
    separator: separatorOf(names),
    labels: [""],
    parents: [-1],
    tensors: [-1],
    children: [[]],
    nodes: new Int32Array(names.length),
  };
  const branches: (Map<string, number> | undefined)[] = [new Map()];
  const add = (parent: number, label: string, tensor: number) => {
    const node = tree.labels.push(label) - 1;
    tree.parents.push(parent);
    tree.tensors.push(tensor);
    tree.children.push(tensor < 0 ? [] : undefined);
    branches.push(tensor < 0 ? new Map() : undefined);
    (tree.children[parent] as number[]).push(node);
    return node;
  };
  names.forEach((name, tensor) => {
    let [node, from] = [ROOT, 0];
    for (let depth = 0; depth < DEEPEST; depth += 1) {
      // A sign that starts a name parts nothing: it stays with what follows.
      const to = name.indexOf(tree.separator, from === 0 ? 1 : from);
      if (to < 0 || to === name.length - 1) break;
      const label = name.slice(from, to);
      const known = branches[node] as Map<string, number>;
      let next = known.get(label);
      if (next === undefined) {
        next = add(node, label, -1);
        known.set(label, next);
      }
      [node, from] = [next, to + 1];
    }
    tree.nodes[tensor] = add(node, name.slice(from), tensor);
  });
  return tree;
}

/** Sum up what each branch holds; of the tensors that are hits only. */
export function totalsOf(tree: Tree, nbytes: readonly number[], sizes: Float64Array, hits: Uint8Array | null): Totals {
  const length = tree.labels.length;
  const totals = { count: new Float64Array(length), nbytes: new Float64Array(length), size: new Float64Array(length) };
  for (let node = length - 1; node > ROOT; node -= 1) {
    const tensor = tree.tensors[node] as number;
    if (tensor >= 0 && (!hits || hits[tensor])) {
      totals.count[node] = 1;
      totals.nbytes[node] = nbytes[tensor] as number;
      totals.size[node] = sizes[tensor] as number;
    }
    const parent = tree.parents[node] as number;
    for (const sum of [totals.count, totals.nbytes, totals.size]) sum[parent] = (sum[parent] as number) + (sum[node] as number);
  }
  return totals;
}

export function isBranch(tree: Tree, node: number): boolean {
  return (tree.tensors[node] as number) < 0;
}

/** A branch that holds but one branch or tensor is shown as one with it. */
export function folded(tree: Tree, node: number): number {
  for (let within = tree.children[node]; within?.length === 1; within = tree.children[node]) node = within[0] as number;
  return node;
}

/** The branch from which on there is more than one to choose from. */
export function forked(tree: Tree): number {
  const node = folded(tree, ROOT);
  return isBranch(tree, node) ? node : ROOT;
}

/** What a node is called beneath the branch above it. */
export function labelOf(tree: Tree, node: number): string {
  let label = tree.labels[node] as string;
  for (let up = tree.parents[node] as number; up > ROOT; up = tree.parents[up] as number) {
    if ((tree.children[up] as number[]).length > 1) break;
    label = `${tree.labels[up]}${tree.separator}${label}`;
  }
  return label;
}

/** The whole name down to a node. */
export function pathOf(tree: Tree, node: number): string {
  const parts: string[] = [];
  for (let at = node; at > ROOT; at = tree.parents[at] as number) parts.push(tree.labels[at] as string);
  return parts.reverse().join(tree.separator);
}

/** The branches above a node, the outermost first. */
export function above(tree: Tree, node: number): number[] {
  const found: number[] = [];
  for (let at = tree.parents[node] as number; at > ROOT; at = tree.parents[at] as number) found.push(at);
  return found.reverse();
}

export interface Shown {
  rows: number[];
  levels: Map<number, number>;
}

/** The nodes that are seen with these branches open. */
export function shown(tree: Tree, totals: Totals, isOpen: (node: number) => boolean, inOrder: (nodes: number[]) => readonly number[]): Shown {
  const rows: number[] = [];
  const levels = new Map<number, number>();
  const fill = (branch: number, level: number) => {
    for (const child of inOrder(tree.children[branch] as number[])) {
      if (totals.count[child] === 0) continue;
      const node = folded(tree, child);
      rows.push(node);
      if (level > 1) levels.set(node, level);
      if (isBranch(tree, node) && isOpen(node)) fill(node, level + 1);
    }
  };
  fill(ROOT, 1);
  return { rows, levels };
}

/** Open as many levels as keep the table short. */
export function firstOpen(tree: Tree, most = 80): Set<number> {
  const open = new Set<number>();
  let level = (tree.children[ROOT] as number[]).map((node) => folded(tree, node));
  let rows = level.length;
  while (level.length) {
    const branches = level.filter((node) => isBranch(tree, node));
    const more = branches.reduce((sum, node) => sum + (tree.children[node] as number[]).length, 0);
    // What alone is there is opened whatever it holds.
    if (more === 0 || (rows > 1 && rows + more > most)) break;
    rows += more;
    for (const node of branches) open.add(node);
    level = branches.flatMap((node) => (tree.children[node] as number[]).map((child) => folded(tree, child)));
  }
  return open;
}

/** What to sort a node's name by. */
export function nameOrder(tree: Tree, node: number, whole: boolean): string {
  const tensor = tree.tensors[node] as number;
  return order(whole && tensor >= 0 ? (tree.names[tensor] as string) : labelOf(tree, node));
}
