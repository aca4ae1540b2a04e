// ELK's layered layout, in a worker: a built file of its own, loaded when a graph is opened. A report
// is one file, so there the text of the worker is in the page.

import workerFile from "elkjs/lib/elk-worker.min.js?url";
import { layersOf } from "./layers";
import type { Plan } from "./sections";

/** Where everything of a plan is: boxes by their upper left corners, edges by points x, y, x, y... */
export interface Placed {
  xs: number[];
  ys: number[];
  routes: number[][];
  width: number;
  height: number;
}

interface Point {
  x: number;
  y: number;
}

interface ElkGraph {
  width: number;
  height: number;
  children: { id: string; x: number; y: number }[];
  edges: { id: string; sections?: { startPoint: Point; endPoint: Point; bendPoints?: Point[] }[] }[];
}

interface Answer {
  id: number;
  error?: unknown;
  data?: ElkGraph;
}

const OPTIONS = {
  "elk.algorithm": "layered",
  "elk.direction": "DOWN",
  "elk.edgeRouting": "POLYLINE",
  "elk.separateConnectedComponents": "false",
  "elk.padding": "[top=0,left=0,bottom=0,right=0]",
  "elk.spacing.nodeNode": "22",
  "elk.spacing.edgeNode": "16",
  "elk.spacing.edgeEdge": "10",
  "elk.layered.spacing.nodeNodeBetweenLayers": "40",
  "elk.layered.spacing.edgeNodeBetweenLayers": "10",
  "elk.layered.crossingMinimization.semiInteractive": "true",
};

/** Boxes, with those that ELK sets in for each layer that a line crosses, that are laid out with care. */
const CAREFUL = 420;

/** How many boxes ELK will have to do with: one for each layer that a line crosses, too. */
export function weightOf(plan: Plan): number {
  const pairs = plan.edges.map(([from, to]) => ({ from, to }));
  const { layer } = layersOf(plan.widths.length, pairs, (box) => box < plan.top);
  return pairs.reduce((sum, { from, to }) => sum + Math.abs(layer[to]! - layer[from]!), plan.widths.length - pairs.length);
}

function optionsFor(plan: Plan): Record<string, string> {
  const weight = weightOf(plan);
  const careful = weight <= CAREFUL;
  // Long lines by the dozen: placing them straight would spread the section far to the sides.
  const compact = weight > 3 * plan.widths.length;
  return {
    ...OPTIONS,
    "elk.layered.thoroughness": careful ? "5" : "1",
    "elk.layered.nodePlacement.strategy": careful ? "NETWORK_SIMPLEX" : compact ? "SIMPLE" : "BRANDES_KOEPF",
  };
}

/** Space between layers that is kept at most: ELK leaves more the further its lines go aside. */
const APART = 110;

/** Take the space out of a layout that separates layers further than the eye needs. */
function tightened(plan: Plan, placed: Placed): Placed {
  const order = placed.ys.map((_, at) => at).sort((one, other) => placed.ys[one]! - placed.ys[other]!);
  // From which height on how much is taken out.
  const cuts: { from: number; to: number; before: number }[] = [];
  let bottom = Infinity;
  let taken = 0;
  for (const at of order) {
    const top = placed.ys[at]!;
    if (top - bottom > APART) {
      cuts.push({ from: bottom, to: top, before: taken });
      taken += top - bottom - APART;
    }
    bottom = Math.max(bottom === Infinity ? -Infinity : bottom, top + plan.heights[at]!);
  }
  if (!cuts.length) return placed;
  const moved = (y: number) => {
    let [low, high] = [0, cuts.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cuts[middle]!.from < y) low = middle + 1;
      else high = middle;
    }
    const cut = cuts[low - 1];
    if (!cut) return y;
    const { from, to, before } = cut;
    return y >= to ? y - before - (to - from - APART) : from - before + ((y - from) / (to - from)) * APART;
  };
  return {
    ...placed,
    ys: placed.ys.map(moved),
    routes: placed.routes.map((route) => route.map((each, at) => (at % 2 ? moved(each) : each))),
    height: placed.height - taken,
  };
}

export class Elk {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, { give: (graph: ElkGraph) => void; fail: (error: Error) => void }>();
  private asked = 0;

  constructor() {
    const text = document.getElementById("worker")?.textContent;
    const address = text ? URL.createObjectURL(new Blob([text], { type: "text/javascript" })) : workerFile;
    this.worker = new Worker(address);
    if (text) URL.revokeObjectURL(address);
    this.worker.onmessage = (event: MessageEvent<Answer>) => {
      const { id, error, data } = event.data;
      const waits = this.waiting.get(id);
      this.waiting.delete(id);
      if (data && !error) waits?.give(data);
      else waits?.fail(new Error("the layout failed"));
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.failAll("the layout cannot be loaded");
    };
    this.worker.postMessage({ id: -1, cmd: "register", algorithms: ["layered"] });
  }

  private failAll(why: string): void {
    for (const { fail } of this.waiting.values()) fail(new Error(why));
    this.waiting.clear();
  }

  stop(): void {
    this.worker.terminate();
    this.failAll("the layout was stopped");
  }

  async place(plan: Plan): Promise<Placed> {
    const lower = plan.widths.length - plan.bottom;
    const graph = {
      id: "all",
      children: plan.widths.map((width, at) => ({
        id: `${at}`,
        width,
        height: plan.heights[at],
        // The gates of a section stand in the order in which the one above leaves them.
        ...(at < plan.top && {
          x: at * 40,
          y: 0,
          layoutOptions: { "elk.layered.layering.layerConstraint": "FIRST_SEPARATE", "elk.position": `(${at * 40},0)` },
        }),
        ...(at >= lower && { layoutOptions: { "elk.layered.layering.layerConstraint": "LAST_SEPARATE" } }),
      })),
      edges: plan.edges.map(([from, to], at) => ({ id: `e${at}`, sources: [`${from}`], targets: [`${to}`] })),
    };
    const id = this.asked++;
    const laid = await new Promise<ElkGraph>((give, fail) => {
      this.waiting.set(id, { give, fail });
      this.worker.postMessage({ id, cmd: "layout", graph, layoutOptions: optionsFor(plan), options: {} });
    });
    return tightened(plan, {
      xs: laid.children.map((child) => child.x),
      ys: laid.children.map((child) => child.y),
      routes: laid.edges.map((edge) =>
        (edge.sections ?? []).flatMap(({ startPoint, bendPoints = [], endPoint }) =>
          [startPoint, ...bendPoints, endPoint].flatMap(({ x, y }) => [x, y]),
        ),
      ),
      width: laid.width,
      height: laid.height,
    });
  }
}
