// What a comparison found: in words, and in lists of which one is shown.

import { useMemo, useRef } from "preact/hooks";
import type { Diff } from "../../answers";
import { count } from "../../format";
import { go } from "../../place";
import { useKeys } from "../../shell/keys";
import { Detail, ValueDetail } from "./detail";
import { OnlyRows, Rows, ValueRows } from "./rows";
import { summaryOf } from "./words";

interface FoundProps {
  diff: Diff;
  a: string;
  b: string;
  chosen: Record<string, string>;
  /** Take note of what is chosen, in the address. */
  choose: (changes: Record<string, string | undefined>, quietly?: boolean) => void;
}

export function Found({ diff, a, b, chosen, choose }: FoundProps) {
  const search = useRef<HTMLInputElement>(null);
  const filter = chosen.filter ?? "";
  const lists = useMemo(() => {
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (name: string) => words.every((word) => name.toLowerCase().includes(word));
    const tensors = diff.tensors.filter((row) => matches(row.name));
    return {
      changed: tensors.filter((row) => !row.identical),
      only_a: diff.only_a.filter((row) => matches(row.name)),
      only_b: diff.only_b.filter((row) => matches(row.name)),
      values: diff.values.filter((row) => matches(row.place)),
      identical: tensors.filter((row) => row.identical),
    };
  }, [diff, filter]);
  const titles = { changed: "Changed", only_a: "Only in A", only_b: "Only in B", values: "Beside the tensors", identical: "Identical" };
  type List = keyof typeof titles;
  const names = Object.keys(titles) as List[];
  const list = names.find((name) => name === chosen.list) ?? names.find((name) => lists[name].length) ?? "changed";
  const row = diff.tensors.find((each) => String(each.a) === chosen.tensor) ?? null;
  const value = diff.values.find((each) => each.place === chosen.value) ?? null;
  const close = () => choose({ tensor: undefined, value: undefined }, true);
  useKeys((key) => key === "Escape" && (row ?? value) && close());
  const open = (id: string, index: number) => go({ sight: "tensors", thing: id, chosen: { tensor: String(index) } });
  return (
    <>
      <p class="diff-summary" role="status">
        {summaryOf(diff).join(" ")}
      </p>
      <div class="diff-bar-of-lists">
        <div class="diff-lists" role="group" aria-label="Lists">
          {names.map((name) => (
            <button
              key={name}
              aria-pressed={name === list}
              disabled={lists[name].length === 0 && name !== list}
              onClick={() => choose({ list: name, tensor: undefined, value: undefined }, true)}
            >
              {titles[name]} {count(lists[name].length)}
            </button>
          ))}
        </div>
        <input
          ref={search}
          type="search"
          aria-label="Filter by name"
          placeholder="filter by name"
          data-search
          value={filter}
          onInput={(event) => choose({ filter: event.currentTarget.value || undefined }, true)}
          onKeyDown={(event) => {
            if (event.key !== "Escape") return;
            choose({ filter: undefined }, true);
            search.current?.blur();
          }}
        />
      </div>
      {(list === "changed" || list === "identical") && (
        <Rows key={list} rows={lists[list]} row={row} choose={(each) => choose({ list, tensor: String(each.a) }, row !== null)} />
      )}
      {list === "only_a" && <OnlyRows side="A" rows={lists.only_a} open={(each) => open(a, each.index)} />}
      {list === "only_b" && <OnlyRows side="B" rows={lists.only_b} open={(each) => open(b, each.index)} />}
      {list === "values" && <ValueRows rows={lists.values} row={value} choose={(each) => choose({ list, value: each.place }, value !== null)} />}
      {row && (list === "changed" || list === "identical") && <Detail a={a} b={b} row={row} close={close} />}
      {value && list === "values" && <ValueDetail row={value} close={close} />}
    </>
  );
}
