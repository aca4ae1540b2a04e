// Layers of a graph: every link goes down by at least one, but for those that close a cycle.

export interface Layers {
  layer: Int32Array;
  /** By link, 1 where it closes a cycle. */
  back: Uint8Array;
  count: number;
}

interface Pair {
  from: number;
  to: number;
}

/** Links by their start (or end), as offsets into a list. */
function grouped(count: number, links: readonly Pair[], end: "from" | "to"): { starts: Int32Array; list: Int32Array } {
  const starts = new Int32Array(count + 1);
  for (const link of links) starts[link[end] + 1]! += 1;
  for (let place = 0; place < count; place += 1) starts[place + 1]! += starts[place]!;
  const next = starts.slice();
  const list = new Int32Array(links.length);
  links.forEach((link, place) => (list[next[link[end]]!++] = place));
  return { starts, list };
}

/** Find the layers; `fixed` says which boxes do not move down to the first that uses them. */
export function layersOf(count: number, links: readonly Pair[], fixed: (box: number) => boolean): Layers {
  const out = grouped(count, links, "from");
  const into = grouped(count, links, "to");
  const back = new Uint8Array(links.length);
  const finished: number[] = [];

  // Walk depth first, without recursion: a chain may be as long as the file says.
  const state = new Uint8Array(count);
  const next = out.starts.slice();
  const walk = (start: number) => {
    const path = [start];
    state[start] = 1;
    while (path.length) {
      const box = path[path.length - 1]!;
      if (next[box]! < out.starts[box + 1]!) {
        const link = out.list[next[box]!++]!;
        const to = links[link]!.to;
        if (state[to] === 1) back[link] = 1;
        else if (state[to] === 0) {
          state[to] = 1;
          path.push(to);
        }
      } else {
        state[box] = 2;
        finished.push(box);
        path.pop();
      }
    }
  };
  for (let box = 0; box < count; box += 1) if (state[box] === 0 && into.starts[box] === into.starts[box + 1]) walk(box);
  for (let box = 0; box < count; box += 1) if (state[box] === 0) walk(box);

  const layer = new Int32Array(count);
  const floats = new Uint8Array(count);
  for (let at = finished.length - 1; at >= 0; at -= 1) {
    const box = finished[at]!;
    floats[box] = fixed(box) ? 0 : 1;
    for (let each = into.starts[box]!; each < into.starts[box + 1]!; each += 1) {
      const link = into.list[each]!;
      if (back[link]) continue;
      const from = links[link]!.from;
      layer[box] = Math.max(layer[box]!, layer[from]! + 1);
      if (!floats[from]) floats[box] = 0;
    }
  }
  // What hangs on constants alone, and inputs, come down to where they are used first.
  for (const box of finished) {
    if (!floats[box] && into.starts[box] !== into.starts[box + 1]) continue;
    let lowest = Infinity;
    for (let each = out.starts[box]!; each < out.starts[box + 1]!; each += 1) {
      const link = out.list[each]!;
      if (!back[link]) lowest = Math.min(lowest, layer[links[link]!.to]!);
    }
    if (lowest !== Infinity) layer[box] = lowest - 1;
  }
  let deep = 0;
  for (const each of layer) deep = Math.max(deep, each + 1);
  return { layer, back, count: deep };
}
