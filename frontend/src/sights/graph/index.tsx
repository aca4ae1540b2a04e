// The model as a layered graph, part by part.

import { useRef, useState } from "preact/hooks";
import type { Graph, Tensors } from "../../answers";
import { isReport } from "../../ask";
import { useAnswer, useJob } from "../../asking";
import { Waiting } from "../../components/waiting";
import { many } from "../../format";
import type { SightProps } from "../../page";
import { go } from "../../place";
import { coloursIn } from "./colours";
import { Drawing, type Follow } from "./drawing";
import { useDrawn } from "./drawn";
import { download, pngOf, svgOf } from "./exported";
import "./graph.css";
import { Panel } from "./panel";
import { plain } from "../../names";
import { Search } from "./search";

/** A place in a list, as an address says it. */
function placeIn(text: string | undefined, size: number): number {
  const place = text && /^\d{1,9}$/.test(text) ? Number(text) : -1;
  return place < size ? place : -1;
}

export function GraphSight({ thing, chosen }: SightProps) {
  const asked = useAnswer<Graph>(`things/${thing.id}/graph`);
  const listing = useAnswer<Tensors>(`things/${thing.id}/tensors`);
  const root = useRef<HTMLElement>(null);
  // How the view follows the chosen box: fully when the address says so, or a list.
  const follow = useRef<Follow>("fully");
  const [sought, setSought] = useState(0);
  const graph = asked.answer;
  // Types that the file leaves out; they take seconds, so what is drawn does not wait for them.
  const typed = useJob<Graph>(graph && thing.dialect === "onnx" && !isReport ? `things/${thing.id}/graph/inferred` : null);
  const at = Math.max(0, placeIn(chosen.part, graph?.parts.length ?? 0));
  const part = graph?.parts[at];
  // The shapes of the weights are drawn too, so their listing is waited for.
  const listed = listing.answer !== undefined || listing.error !== undefined;
  const drawn = useDrawn(part, listing.answer, listed ? `${thing.id}/${at}` : null);
  if (!graph) return <Waiting asked={asked} what="reading the graph" />;
  if (!part) return <p class="soft">There is no graph in this file.</p>;

  const { scene } = drawn;
  const nodes = part.nodes.length;
  const trail = (chosen.from ?? "").split(".").map((each) => placeIn(each, graph.parts.length)).filter((each) => each >= 0);
  // In the address a node is told by its place, a value by the place of its box after a "v".
  const node = chosen.node ?? "";
  const box = !scene ? -1 : node.startsWith("v") ? placeIn(node.slice(1), scene.picture.boxes.length) : (scene.picture.boxOf[placeIn(node, nodes)] ?? -1);
  const show = (to: Record<string, string>, quietly: boolean) => go({ sight: "graph", thing: thing.id, chosen: to }, quietly);
  const here = { ...(at > 0 && { part: `${at}` }), ...(trail.length > 0 && { from: trail.join(".") }) };
  const choose = (to: number, how: Follow) => {
    const of = scene?.picture.boxes[to];
    follow.current = how;
    setSought(sought + 1);
    show(of ? { ...here, node: of.node >= 0 ? `${of.node}` : `v${to}` } : here, true);
  };
  const seek = (to: number) => choose(to, "fully");
  const openPart = (to: number) => {
    if (graph.parts[to]) show({ part: `${to}`, from: [...trail.slice(-30), at].join(".") }, false);
  };
  const open = (of: number) => {
    const inside = part.nodes[scene?.picture.boxes[of]?.node ?? -1]?.parts[0];
    if (inside !== undefined) openPart(inside);
  };
  const titleOf = (place: number) => plain(graph.parts[place]?.name ?? "", 60) || `${graph.parts[place]?.kind} ${place}`;
  const tops = graph.parts.map((_, place) => place).filter((place) => graph.parts[place]!.kind !== "subgraph");
  const fileName = `${thing.name}${at > 0 ? `.${at}` : ""}`;
  const save = async (kind: "svg" | "png") => {
    if (!scene || !root.current) return;
    const colours = coloursIn(root.current);
    const blob = kind === "png" ? await pngOf(scene, colours) : new Blob([svgOf(scene, colours, plain(fileName))], { type: "image/svg+xml" });
    if (blob) download(blob, `${fileName}.${kind}`);
  };
  return (
    <section class="graph" ref={root} aria-label="Graph" data-state={scene ? "ready" : drawn.error ? "failed" : "laying-out"} data-nodes={nodes} data-part={at} data-layout={scene ? (scene.layout.plain ? "plain" : "layered") : undefined}>
      <div class="graph-bar">
        {tops.length > 1 && trail.length === 0 && (
          <select aria-label="Part" value={`${at}`} onChange={(event) => show(event.currentTarget.value === "0" ? {} : { part: event.currentTarget.value }, false)}>
            {tops.map((place) => (
              <option key={place} value={`${place}`}>
                {graph.parts[place]!.kind}: {titleOf(place)}
              </option>
            ))}
          </select>
        )}
        {trail.length > 0 && (
          <nav aria-label="Parts" class="graph-trail">
            {trail.map((place, step) => (
              <button
                key={step}
                onClick={() => show({ ...(place > 0 && { part: `${place}` }), ...(step > 0 && { from: trail.slice(0, step).join(".") }) }, false)}
              >
                {titleOf(place)}
              </button>
            ))}
            <span aria-current="location">{titleOf(at)}</span>
          </nav>
        )}
        <Search key={at} part={part} choose={(to) => seek(scene?.picture.boxOf[to] ?? -1)} />
        <span class="soft">{many(nodes, "node")}</span>
        {graph.left_out > 0 && <span class="soft">{many(graph.left_out, "more node is", "more nodes are")} not shown</span>}
        {scene?.layout.plain && <span class="soft">laid out plainly</span>}
        <span class="graph-save">
          <button disabled={!scene} onClick={() => save("svg")}>
            SVG
          </button>
          <button disabled={!scene} onClick={() => save("png")}>
            PNG
          </button>
        </span>
      </div>
      <div class="graph-body">
        <Drawing drawn={drawn} box={box} sought={sought} follow={follow} choose={choose} open={open} nodes={nodes} />
        <Panel graph={graph} part={part} typed={typed.answer?.parts[at] ?? part} scene={scene} box={box} thing={thing.id} tensors={listing.answer} choose={seek} openPart={openPart} />
      </div>
    </section>
  );
}
