// Looking for a node by its operation, its name, or the name of a value or weight of it.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Part } from "../../answers";
import { plain } from "../../names";

const MOST = 100;

interface Entry {
  node: number;
  text: string;
}

/** Whether keys are being typed into something. */
function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName);
}

export function Search({ part, choose }: { part: Part; choose: (node: number) => void }) {
  const [wanted, setWanted] = useState("");
  const [open, setOpen] = useState(false);
  const [at, setAt] = useState(0);
  const field = useRef<HTMLInputElement>(null);
  const list = useRef<HTMLUListElement>(null);
  const entries = useMemo(
    () =>
      part.nodes.map((node, place): Entry => {
        const words = [node.op, node.name, ...node.outputs.slice(0, 50), ...node.inputs.slice(0, 50)];
        return { node: place, text: words.join("\n").slice(0, 4000).toLowerCase() };
      }),
    [part],
  );
  const [found, more] = useMemo(() => {
    const words = wanted.toLowerCase().trim();
    if (!words) return [[], 0] as [Entry[], number];
    const all = entries.filter((entry) => entry.text.includes(words));
    // Nodes whose operation is just what was asked for come first.
    all.sort((one, other) => Number(other.text.startsWith(words)) - Number(one.text.startsWith(words)));
    return [all.slice(0, MOST), Math.max(0, all.length - MOST)] as [Entry[], number];
  }, [wanted, entries]);
  useEffect(() => setAt(0), [wanted]);
  useEffect(() => {
    const focus = (event: KeyboardEvent) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
      event.preventDefault();
      field.current?.focus();
      field.current?.select();
    };
    window.addEventListener("keydown", focus);
    return () => window.removeEventListener("keydown", focus);
  }, []);
  useEffect(() => list.current?.children[at]?.scrollIntoView({ block: "nearest" }), [at, open]);

  const take = (entry: Entry | undefined) => {
    if (!entry) return;
    setOpen(false);
    field.current?.blur();
    choose(entry.node);
  };
  const press = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) {
      setOpen(true);
      setAt((at + step + found.length) % found.length);
    } else if (event.key === "Enter") take(found[at]);
    else if (event.key === "Escape") {
      setOpen(false);
      setWanted("");
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const shown = open && wanted.trim() !== "";
  return (
    <div class="graph-search">
      <input
        ref={field}
        type="search"
        role="combobox"
        aria-label="Search nodes"
        aria-expanded={shown}
        aria-controls="graph-found"
        aria-autocomplete="list"
        aria-activedescendant={shown && found[at] ? `graph-found-${at}` : undefined}
        placeholder="Search nodes ( / )"
        value={wanted}
        onInput={(event) => {
          setWanted(event.currentTarget.value);
          setOpen(true);
        }}
        onFocus={() => setOpen(true)}
        onBlur={() => setTimeout(() => setOpen(false), 150)}
        onKeyDown={press}
      />
      {shown && (
        <div class="graph-found">
          <ul id="graph-found" role="listbox" aria-label="Nodes found" ref={list}>
            {found.map((entry, place) => {
              const node = part.nodes[entry.node]!;
              return (
                <li
                  key={entry.node}
                  id={`graph-found-${place}`}
                  role="option"
                  aria-selected={place === at}
                  onPointerDown={(event) => event.preventDefault()}
                  onClick={() => take(entry)}
                >
                  <strong>{plain(node.op, 60)}</strong> <bdi class="soft">{plain(node.name || node.outputs[0] || "", 120)}</bdi>
                </li>
              );
            })}
          </ul>
          <p class="soft" role="status">
            {found.length === 0 ? "no node has this" : more > 0 ? `and ${more} more` : `${found.length} found`}
          </p>
        </div>
      )}
    </div>
  );
}
