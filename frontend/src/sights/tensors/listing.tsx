// The tensors as a tree, as a flat list or as a map of their sizes, and the search.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Tensors } from "../../answers";
import { sorted, type Sorting, Table } from "../../components/table";
import { count } from "../../format";
import { columnsOf } from "./columns";
import { useDeferred } from "./deferred";
import { SizeMap } from "./map";
import { hitsOf } from "./search";
import { broken, type Known } from "./statistics";
import { sizeOf } from "./summary";
import { above, firstOpen, folded, isBranch, ROOT, shown, totalsOf, treeOf } from "./tree";

export interface ListingProps {
  tensors: Tensors;
  known: Known;
  /** Changes whenever more is known. */
  version: number;
  shape: "tree" | "list" | "map";
  query: string;
  onQuery: (query: string) => void;
  /** The branch that the map shows. */
  under: number;
  onUnder: (node: number) => void;
  tensor: number;
  onTensor: (tensor: number) => void;
  /** The branches that are open; null before any was opened or closed. */
  open: Set<number> | null;
  setOpen: (open: Set<number>) => void;
}

const MEASURED = new Set(["min", "max", "mean", "std", "zeros", "broken"]);
// Branches are all open where no more than so many are found.
const FEW = 400;

export function Listing(props: ListingProps) {
  const { tensors, known, version, tensor, shape } = props;
  const [text, setText] = useState(props.query);
  const query = useDeferred(text, tensors.names.length > 20_000 ? 180 : 60);
  const [sorting, setSorting] = useState<Sorting | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const written = useRef(props.query);
  useEffect(() => {
    if (query !== written.current) {
      written.current = query;
      props.onQuery(query);
    }
  }, [query]);
  useEffect(() => {
    // Back and forward change the address, and the field with it.
    if (props.query !== written.current) {
      written.current = props.query;
      setText(props.query);
    }
  }, [props.query]);
  useEffect(() => {
    const seek = (event: KeyboardEvent) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
      event.preventDefault();
      field.current?.focus();
      field.current?.select();
    };
    window.addEventListener("keydown", seek);
    return () => window.removeEventListener("keydown", seek);
  }, []);

  const tree = useMemo(() => treeOf(tensors.names), [tensors]);
  const sizes = useMemo(() => Float64Array.from(tensors.shapes, sizeOf), [tensors]);
  const lowered = useMemo(() => tensors.names.map((name) => name.toLowerCase()), [tensors]);
  const hits = useMemo(() => hitsOf(lowered, query), [lowered, query]);
  const totals = useMemo(() => totalsOf(tree, tensors.nbytes, sizes, hits), [tree, sizes, hits]);
  const found = totals.count[ROOT] as number;
  const damage = useMemo(() => {
    const sums = new Map<number, number>();
    for (const each of known.all) {
      const many = broken(each);
      const node = tree.nodes[each.index];
      if (many === 0 || node === undefined) continue;
      for (const up of above(tree, node)) sums.set(up, (sums.get(up) ?? 0) + many);
    }
    return sums;
  }, [tree, version]);

  const first = useMemo(() => firstOpen(tree), [tree]);
  const open = props.open ?? first;
  const wide = hits !== null && found <= FEW;
  const [shut, setShut] = useState<Set<number>>(new Set());
  useEffect(() => setShut(new Set()), [query]);
  const isOpen = (node: number) => (wide ? !shut.has(node) : open.has(node));
  const onOpen = (node: number, on: boolean) => {
    const next = new Set(wide ? shut : open);
    if (on === wide) next.delete(node);
    else next.add(node);
    if (wide) setShut(next);
    else props.setOpen(next);
  };
  // A tensor that an address names is seen in the tree.
  useEffect(() => {
    const node = tensor >= 0 ? tree.nodes[tensor] : undefined;
    const hidden = node === undefined ? [] : above(tree, node).filter((branch) => folded(tree, branch) === branch && !isOpen(branch));
    if (hidden.length && !wide) props.setOpen(new Set([...open, ...hidden]));
  }, [tensor, tree]);

  const flat = shape === "list";
  const levels = useRef(new Map<number, number>());
  const all = useMemo(() => tensors.nbytes.reduce((sum, each) => sum + each, 0), [tensors]);
  const of = { tree, all, tensors, totals, known, damage, flat, beside: tensor >= 0, levels: levels.current, isOpen, onOpen };
  const byValues = sorting !== null && MEASURED.has(sorting.key);
  const sortedBy = [sorting, byValues ? version : 0];
  const leaves = useMemo(
    () => (flat ? sorted(Array.from(tree.nodes), columnsOf(of), sorting) : []),
    [tree, flat, ...sortedBy],
  );
  const rows = useMemo(() => {
    if (flat) return hits ? leaves.filter((node) => hits[tree.tensors[node] as number]) : leaves;
    const part = shown(tree, totals, isOpen, (nodes) => sorted(nodes, columnsOf(of), sorting));
    levels.current = part.levels;
    return part.rows;
  }, [tree, totals, flat, leaves, open, shut, wide, ...sortedBy]);
  of.levels = levels.current;
  const columns = columnsOf(of);

  useEffect(() => {
    if (byValues) known.wantAll();
  }, [byValues, known]);
  const unknown = byValues && known.count < tensors.names.length;
  return (
    <>
      <div class="tensors-search">
        <input
          ref={field}
          type="search"
          aria-label="Search names"
          placeholder="search names: conv weight, *.bias   ( / )"
          spellcheck={false}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Escape") return;
            event.preventDefault();
            if (text) setText("");
            else field.current?.blur();
          }}
        />
        <span class="soft" role="status">
          {hits ? `${count(found)} of ${count(tensors.names.length)}` : ""}
          {unknown ? ` sorted by what is known of ${count(known.count)} of ${count(tensors.names.length)}` : ""}
        </span>
        {shape === "tree" && (
          <span class="tensors-folds">
            <button onClick={() => (wide ? setShut(new Set()) : props.setOpen(new Set(tree.tensors.flatMap((each, node) => (each < 0 ? [node] : [])))))}>Open all</button>
            <button onClick={() => (wide ? setShut(new Set(tree.tensors.flatMap((each, node) => (each < 0 ? [node] : [])))) : props.setOpen(new Set()))}>Close all</button>
          </span>
        )}
      </div>
      {shape === "map" ? (
        <SizeMap tree={tree} totals={totals} all={all} under={props.under} onUnder={props.onUnder} tensor={tensor} onTensor={props.onTensor} />
      ) : (
        <Table
          label={flat ? "Tensors" : "Tensors by the parts of their names"}
          columns={columns}
          rows={rows}
          selected={tensor >= 0 ? tree.nodes[tensor] : null}
          onSelect={(node) => (isBranch(tree, node) ? onOpen(node, !isOpen(node)) : props.onTensor(tree.tensors[node] as number))}
          onView={(nodes) => known.want(nodes.map((node) => tree.tensors[node] as number).filter((each) => each >= 0))}
          sorting={sorting}
          onSort={setSorting}
          branch={flat ? undefined : (node) => ({ level: levels.current.get(node) ?? 1, open: isBranch(tree, node) ? isOpen(node) : undefined })}
          onOpen={onOpen}
          rowClass={(node) => (broken(known.of(tree.tensors[node] as number)) > 0 ? "tensors-broken" : "")}
          height="var(--tensors-height)"
          none={hits ? "no name has this" : "there are no tensors"}
        />
      )}
    </>
  );
}
