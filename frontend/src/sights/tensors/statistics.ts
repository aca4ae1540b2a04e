// What is known of the values: asked for what is in view first, in batches, one at a time; of small
// files then for all the rest, so that rows can be sorted by it.

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Statistics } from "../../answers";
import { ask, isReport } from "../../ask";

const BATCH = 64;
const FEW = 1024;
const MANY = 10_000;

export class Known {
  private readonly found = new Map<number, Statistics>();
  private readonly asked = new Set<number>();
  private wanted: number[] = [];
  private rest: number;
  private busy = false;
  private readonly stop = new AbortController();
  problem = "";

  constructor(
    private readonly thing: string,
    private readonly length: number,
    private readonly changed: () => void,
  ) {
    this.rest = isReport || length > FEW ? length : 0;
    if (isReport) void this.load(`things/${thing}/statistics`);
    else void this.work();
  }

  of(tensor: number): Statistics | undefined {
    return this.found.get(tensor);
  }

  get all(): Iterable<Statistics> {
    return this.found.values();
  }

  get count(): number {
    return this.found.size;
  }

  /** Whether an answer may still come. */
  get waiting(): boolean {
    return this.busy;
  }

  /** Ask for these next, and no more for those wanted before. */
  want(tensors: readonly number[]): void {
    this.wanted = tensors.filter((tensor) => !this.asked.has(tensor));
    if (!isReport) void this.work();
  }

  /** Ask for all again: exact figures are there now. */
  refresh(): void {
    const view = [...this.asked].slice(-BATCH);
    this.asked.clear();
    if (this.length <= FEW) this.rest = 0;
    this.want(view);
  }

  /** Ask for all, bit by bit, unless there are too many. */
  wantAll(): void {
    if (isReport || this.length > MANY || this.found.size === this.length) return;
    this.rest = 0;
    void this.work();
  }

  put(found: Statistics): void {
    this.found.set(found.index, found);
    this.asked.add(found.index);
    this.changed();
  }

  close(): void {
    this.stop.abort();
  }

  private next(): number[] {
    const batch = this.wanted.splice(0, BATCH);
    while (batch.length < BATCH && this.rest < this.length) {
      if (!this.asked.has(this.rest) && !batch.includes(this.rest)) batch.push(this.rest);
      this.rest += 1;
    }
    return batch;
  }

  private async work(): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    // Rows that are passed by in scrolling are never asked for: the last wish within a moment counts.
    await new Promise((resolve) => setTimeout(resolve, 60));
    for (let batch = this.next(); batch.length && !this.stop.signal.aborted; batch = this.next()) {
      for (const tensor of batch) this.asked.add(tensor);
      await this.load(`things/${this.thing}/statistics?of=${batch.join(",")}`);
    }
    this.busy = false;
  }

  private async load(path: string): Promise<void> {
    try {
      for (const each of await ask<Statistics[]>(path, this.stop.signal)) {
        this.found.set(each.index, each);
        this.asked.add(each.index);
      }
      this.problem = "";
    } catch (error) {
      this.problem = (error as Error).message;
      this.rest = this.length;
    }
    if (!this.stop.signal.aborted) this.changed();
  }
}

/** What is known of the tensors of a thing; `version` changes whenever more is. */
export function useKnown(thing: string, length: number): { known: Known; version: number } {
  const [version, setVersion] = useState(0);
  const known = useMemo(() => new Known(thing, length, () => setVersion((before) => before + 1)), [thing, length]);
  useEffect(() => () => known.close(), [known]);
  return { known, version };
}

/** How many values are no numbers or infinite. */
export function broken(found: Statistics | undefined): number {
  return found ? found.nan + found.inf : 0;
}
