// What is known of the chosen node; or, where none is chosen, of the part and the model.

import { Fragment, type ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Graph, Node, Part, Tensors } from "../../answers";
import { count } from "../../format";
import { fragmentOf } from "../../place";
import { categoryOf } from "./categories";
import { plain } from "../../names";
import type { Scene } from "./scene";

const MOST = 50;

function Long<T>({ items, show }: { items: readonly T[]; show: (item: T, at: number) => ComponentChildren }) {
  const [all, setAll] = useState(false);
  const shown = all ? items.slice(0, 5000) : items.slice(0, MOST);
  return (
    <ul>
      {shown.map((item, at) => (
        <li key={at}>{show(item, at)}</li>
      ))}
      {items.length > shown.length && (
        <li>
          {all ? <span class="soft">and {count(items.length - shown.length)} more</span> : <button onClick={() => setAll(true)}>{count(items.length - MOST)} more</button>}
        </li>
      )}
    </ul>
  );
}

function Name({ text }: { text: string }) {
  return <bdi class="mono graph-name">{plain(text) || "(unnamed)"}</bdi>;
}

export interface PanelProps {
  graph: Graph;
  part: Part;
  /** The same part with the types that were worked out, once they are. */
  typed: Part;
  scene: Scene | null;
  box: number;
  thing: string;
  tensors: Tensors | undefined;
  choose: (box: number) => void;
  openPart: (part: number) => void;
}

/** The operations of a part and how often each is there, the most frequent first. */
function operationsOf(part: Part): [op: string, times: number][] {
  const times = new Map<string, number>();
  for (const { op } of part.nodes) times.set(op, (times.get(op) ?? 0) + 1);
  return [...times].sort((one, other) => other[1] - one[1]);
}

function partTitle(graph: Graph, at: number): string {
  const part = graph.parts[at];
  return part ? `${part.kind} ${plain(part.name, 80) || at}` : `part ${at}`;
}

function Weight({ place, tensors, thing }: { place: number; tensors: Tensors | undefined; thing: string }) {
  const name = tensors?.names[place];
  return (
    <a href={fragmentOf({ sight: "tensors", thing, chosen: { tensor: `${place}` } })}>
      <bdi class="mono graph-name">{plain(name ?? `tensor ${place}`)}</bdi>
      {name !== undefined && (
        <span class="soft">
          {" "}
          {tensors?.dtypes[place]}[{tensors?.shapes[place]?.join(", ")}]
        </span>
      )}
    </a>
  );
}

function Values({ names, props, types, into }: { names: string[]; props: PanelProps; types: Map<string, string>; into: boolean }) {
  const { scene, box, part, tensors, thing, choose } = props;
  const weights = new Map(Object.entries(part.tensors));
  const others = new Map<string, number[]>();
  for (const at of (into ? scene?.picture.into : scene?.picture.out)?.[box] ?? []) {
    const link = scene!.picture.links[at]!;
    const { value } = scene!.picture.sources[link.source]!;
    const list = others.get(value) ?? [];
    list.push(into ? link.from : link.to);
    others.set(value, list);
  }
  return (
    <Long
      items={names}
      show={(name) => {
        if (!name) return <span class="soft">(left out)</span>;
        const place = weights.get(name);
        if (into && place !== undefined && !others.has(name)) return <Weight place={place} tensors={tensors} thing={thing} />;
        const ends = others.get(name) ?? [];
        return (
          <>
            <Name text={name} /> <span class="soft">{plain(types.get(name) ?? "", 120)}</span>
            {ends.slice(0, 12).map((end) => (
              <button key={end} class="graph-end" onClick={() => choose(end)}>
                {into ? "from" : "to"} {scene!.picture.boxes[end]!.title}
              </button>
            ))}
            {ends.length > 12 && <span class="soft"> and {count(ends.length - 12)} more</span>}
          </>
        );
      }}
    />
  );
}

function NodePanel({ node, props, types }: { node: Node; props: PanelProps; types: Map<string, string> }) {
  const { graph, tensors, thing, choose, openPart } = props;
  const attributes = node.attributes.filter((each) => each.part === null);
  return (
    <aside class="graph-panel" aria-label="Node">
      <header>
        <h2>
          <i class="graph-dot" data-category={categoryOf(node.op)} aria-hidden="true" /> {plain(node.op, 120) || "(no operation)"}
        </h2>
        <button aria-label="Close" onClick={() => choose(-1)}>
          ×
        </button>
      </header>
      <dl>
        {node.name && (
          <>
            <dt>Name</dt>
            <dd>
              <Name text={node.name} />
            </dd>
          </>
        )}
        {node.domain && (
          <>
            <dt>Domain</dt>
            <dd>
              <Name text={node.domain} />
            </dd>
          </>
        )}
      </dl>
      {node.doc && <p class="graph-doc">{plain(node.doc, 4000)}</p>}
      {node.parts.length > 0 && (
        <>
          <h3>Inside</h3>
          <Long
            items={node.parts}
            show={(at) => {
              const attribute = node.attributes.find((each) => each.part === at);
              return (
                <button onClick={() => openPart(at)}>
                  Open {attribute ? `${plain(attribute.name, 40)}: ` : ""}
                  {partTitle(graph, at)}
                </button>
              );
            }}
          />
        </>
      )}
      {attributes.length > 0 && (
        <>
          <h3>Attributes</h3>
          <Long
            items={attributes}
            show={({ name, kind, text, tensor }) => (
              <>
                <span class="mono" title={plain(kind, 40)}>
                  {plain(name, 120)}
                </span>{" "}
                {tensor !== null ? <Weight place={tensor} tensors={tensors} thing={thing} /> : <bdi class="graph-text">{plain(text, 2000)}</bdi>}
              </>
            )}
          />
        </>
      )}
      {node.inputs.length > 0 && <h3>Inputs {node.inputs.length > 5 && <small>({count(node.inputs.length)})</small>}</h3>}
      <Values names={node.inputs} props={props} types={types} into />
      {node.outputs.length > 0 && <h3>Outputs {node.outputs.length > 5 && <small>({count(node.outputs.length)})</small>}</h3>}
      <Values names={node.outputs} props={props} types={types} into={false} />
    </aside>
  );
}

export function Panel(props: PanelProps) {
  const { graph, part, typed, scene, box, choose } = props;
  const types = new Map([...Object.entries(typed.values), ...[...typed.inputs, ...typed.outputs].filter((each) => each.type).map((each) => [each.name, each.type] as const)]);
  const drawn = scene?.picture.boxes[box];
  const node = drawn ? part.nodes[drawn.node] : undefined;
  if (node) return <NodePanel key={box} node={node} props={props} types={types} />;
  if (drawn) {
    const kinds = { input: "Input", output: "Output", outer: "Value from outside" } as Record<string, string>;
    return (
      <aside class="graph-panel" aria-label="Node" key={box}>
        <header>
          <h2>{kinds[drawn.kind]}</h2>
          <button aria-label="Close" onClick={() => choose(-1)}>
            ×
          </button>
        </header>
        <Values names={[drawn.value]} props={props} types={types} into={drawn.kind === "output"} />
      </aside>
    );
  }
  return (
    <aside class="graph-panel" aria-label="Model">
      <h2>{partTitle(graph, graph.parts.indexOf(part))}</h2>
      {part.doc && <p class="graph-doc">{plain(part.doc, 4000)}</p>}
      <dl>
        {Object.entries(graph.about).map(([key, value]) => (
          <Fragment key={key}>
            <dt>{plain(key, 60)}</dt>
            <dd>
              <bdi class="graph-text">{plain(value, 1000)}</bdi>
            </dd>
          </Fragment>
        ))}
        <dt>nodes</dt>
        <dd>{count(part.nodes.length)}</dd>
      </dl>
      {part.inputs.length > 0 && <h3>Inputs</h3>}
      <Long items={part.inputs} show={({ name, type }) => <><Name text={name} /> <span class="soft">{plain(type, 120)}</span></>} />
      {part.outputs.length > 0 && <h3>Outputs</h3>}
      <Long items={part.outputs} show={({ name, type }) => <><Name text={name} /> <span class="soft">{plain(type, 120)}</span></>} />
      {part.nodes.length > 0 && <h3>Operations</h3>}
      <Long
        items={operationsOf(part)}
        show={([op, times]) => (
          <>
            <i class="graph-dot" data-category={categoryOf(op)} aria-hidden="true" title={categoryOf(op)} /> {plain(op, 120) || "(no operation)"}{" "}
            <span class="soft">{count(times)}</span>
          </>
        )}
      />
    </aside>
  );
}
