// Having a part drawn up and laid out; layouts are kept while the page lives.

import { useEffect, useState } from "preact/hooks";
import type { Part, Tensors } from "../../answers";
import { layOut } from "./layout";
import { pictureOf } from "./picture";
import { Scene } from "./scene";

export interface Drawn {
  scene: Scene | null;
  /** How much of it is laid out, 0 to 1. */
  part: number;
  error: string;
  /** Have the rest laid out plainly, at once. */
  hurry: () => void;
}

/** By the thing and the part of it; the oldest go when there are many. */
const kept = new Map<string, Scene>();
const MOST = 24;

function keep(key: string, scene: Scene): void {
  kept.set(key, scene);
  for (const oldest of kept.keys()) {
    if (kept.size <= MOST) break;
    kept.delete(oldest);
  }
}

/** Have a part drawn; `key` says which it is, and nothing is done until it is given. */
export function useDrawn(part: Part | undefined, tensors: Tensors | undefined, key: string | null): Drawn {
  const [drawn, setDrawn] = useState<Omit<Drawn, "hurry"> & { of?: Part }>({ scene: null, part: 0, error: "" });
  const [hurry, setHurry] = useState<() => void>(() => () => {});
  useEffect(() => {
    if (!part || key === null) return;
    const known = kept.get(key);
    if (known?.picture.boxOf.length === part.nodes.length) {
      setDrawn({ scene: known, part: 1, error: "", of: part });
      return;
    }
    const stop = new AbortController();
    const hurried = new AbortController();
    setHurry(() => () => hurried.abort());
    setDrawn({ scene: null, part: 0, error: "", of: part });
    const work = async () => {
      // The status is on the screen before the work begins.
      await new Promise((resolve) => setTimeout(resolve, 20));
      stop.signal.throwIfAborted();
      const picture = pictureOf(part, tensors);
      let told = 0;
      const report = (done: number) => {
        if (done - told < 0.02 || stop.signal.aborted) return;
        told = done;
        setDrawn({ scene: null, part: done, error: "", of: part });
      };
      const layout = await layOut(picture, report, stop.signal, hurried.signal);
      const scene = new Scene(picture, layout);
      keep(key, scene);
      setDrawn({ scene, part: 1, error: "", of: part });
    };
    work().catch((error: Error) => {
      if (!stop.signal.aborted) setDrawn({ scene: null, part: 0, error: error.message, of: part });
    });
    return () => stop.abort();
  }, [part, key]);
  // What was drawn of another part is not shown for this one, not even for a moment.
  const own = drawn.of === part ? drawn : { scene: null, part: 0, error: "" };
  return { scene: own.scene, part: own.part, error: own.error, hurry };
}
