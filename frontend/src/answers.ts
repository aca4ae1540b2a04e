// Made by scripts/viewer_types.py from src/tensorkeep/viewer/answers.py.

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Something that was given, or a checkpoint of a run that was: "0", "1", "1@200". */
export interface Thing {
  id: string;
  name: string;
  path: string;
  kind: string;
  format: string;
  tensors: number;
  nbytes: number;
  dialect: string;
  steps: number;
  problem: string;
}

/** things: all that is open. */
export interface Things {
  version: string;
  things: Thing[];
}

/** The body of every answer whose status is not 200. */
export interface Problem {
  problem: string;
  cure: string;
}

/** How far long work is; asked for again until it is finished. */
export interface Job {
  finished: boolean;
  done: number;
  total: number;
  problem: string;
  result: unknown;
}

/** things/ID/tensors: the listing, column by column. */
export interface Tensors {
  names: string[];
  dtypes: string[];
  shapes: number[][];
  nbytes: number[];
  remarks: Record<string, string>;
  left_out: number;
}

/** things/ID/metadata: what is kept beside the tensors. */
export interface Metadata {
  metadata: Record<string, Json>;
  values: Record<string, Json>;
  refused: string[];
}

/** What is known of the values of a tensor; of text, of their lengths. */
export interface Statistics {
  index: number;
  size: number;
  measured: number;
  exact: boolean;
  zeros: number;
  nan: number;
  inf: number;
  min: number | null;
  max: number | null;
  mean: number | null;
  std: number | null;
  edges: number[];
  counts: number[];
  problem: string;
}

/** The head of things/ID/tensors/N/window: a part of a 2-D slice; its float32s follow. */
export interface Window {
  axes: number[];
  at: number[];
  rows: number[];
  cols: number[];
  steps: number[];
  shape: number[];
  low: number | null;
  high: number | null;
}

/** things/ID/tensors/N/values: a small window in full precision, as text. */
export interface Values {
  rows: number[];
  cols: number[];
  values: string[][];
}

/** The head of things/ID/tensors/N/tiles: filters as images; float32s follow. */
export interface Tiles {
  layout: string;
  first: number;
  count: number;
  of: number;
  rows: number;
  cols: number;
  channels: number;
  low: number | null;
  high: number | null;
}

/** What flows along an edge: its name and its type, such as float32[1, 3, ?]; empty: unknown. */
export interface Value {
  name: string;
  type: string;
}

/** An attribute of a node, as text; or the part that it is. */
export interface Attribute {
  name: string;
  kind: string;
  text: string;
  part: number | null;
  tensor: number | null;
}

/** An operation. */
export interface Node {
  op: string;
  domain: string;
  name: string;
  inputs: string[];
  outputs: string[];
  attributes: Attribute[];
  parts: number[];
  doc: string;
}

/** A graph, one inside a node, a function, or one of Caffe2's nets. */
export interface Part {
  kind: string;
  name: string;
  inputs: Value[];
  outputs: Value[];
  nodes: Node[];
  values: Record<string, string>;
  tensors: Record<string, number>;
  doc: string;
}

/** things/ID/graph: a model; the first part is its main one.

It is also the result of the job things/ID/graph/inferred, with types that the model does not
say, where they can be worked out. */
export interface Graph {
  dialect: string;
  about: Record<string, string>;
  parts: Part[];
  left_out: number;
}

/** How a tensor of the one compares with that of the same name in the other. */
export interface DiffRow {
  name: string;
  a: number;
  b: number;
  dtypes: string[];
  shapes: number[][];
  identical: boolean;
  equal: boolean;
  differing: number | null;
  max: number | null;
  mean: number | null;
  cosine: number | null;
}

/** A tensor that only one of both has. */
export interface Only {
  name: string;
  index: number;
  dtype: string;
  shape: number[];
}

/** A value beside the tensors that differs. */
export interface Change {
  place: string;
  a: string;
  b: string;
}

/** The result of the job diff?a=ID&b=ID. */
export interface Diff {
  equal: boolean;
  only_a: Only[];
  only_b: Only[];
  tensors: DiffRow[];
  values: Change[];
  left_out: number;
}

/** diff/histograms?a=ID&b=ID&ia=N&ib=N: both tensors counted in the same bins. */
export interface Overlay {
  edges: number[];
  a: number[];
  b: number[];
  exact: boolean;
}

/** A checkpoint of a run; it is open as the thing "ID@STEP". */
export interface Step {
  step: number;
  time: number;
  size: number;
  shared: number;
  metrics: Record<string, number | string>;
  metadata: Record<string, Json>;
  reason: string;
  verified: number;
  problem: string;
  format: string;
}

/** runs/ID: the checkpoints in the order of their steps. */
export interface Run {
  steps: Step[];
}

/** The result of the job runs/ID/verify?step=N. */
export interface Verified {
  step: number;
  sound: boolean;
  problems: string[];
  unchecked: number;
}

/** The result of the job runs/ID/course?exact=0: each tensor over the steps.

The outer lists are by name, the inner ones by step; None where a step has no such tensor, or
the one before it has none to compare with. */
export interface Course {
  steps: number[];
  names: string[];
  norms: ((number | null)[])[];
  updates: ((number | null)[])[];
  broken: number[][];
  exact: boolean;
  left_out: number;
  problems: Record<string, string>;
}
