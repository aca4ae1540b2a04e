// What kind of operation a node is, which says its colour.

export const CATEGORIES = ["linear", "activation", "norm", "pool", "shape", "arithmetic", "recurrent", "control", "other"] as const;
export type Category = (typeof CATEGORIES)[number];

// The names of ONNX, NNEF and Caffe2, without regard to case and underscores. The first row wins.
const ROWS: [Category, RegExp][] = [
  ["recurrent", /^(lstm|gru|rnn|lstmunit|lstmstep|gruunit|recurrent.*|scanstep)$/],
  ["control", /^(if|loop|scan|while|sequence.*|optional.*|splittosequence|concatfromsequence)$/],
  ["norm", /norm|^(lrn|spatialbn|meanvariance.*|localresponse.*|l[12]normalization|simplifiedlayer.*)/],
  ["pool", /pool|^(argmax|argmin|topk|nonmaxsuppression|roialign|multilinearupsample|box)$/],
  ["linear", /conv|^(gemm|matmul.*|qlinearmatmul|fc|linear|einsum|batchmatmul|matmulinteger|.*attention|embedding|deconv|box|separabledeconv)$/],
  ["activation", /relu|sigmoid|tanh|softmax|gelu|swish|silu|mish|softplus|softsign|^(elu|selu|celu|hardmax|dropout|erf|thresholdedrelu|shrink|clip|softabs)$/],
  [
    "shape",
    /reshape|squeeze|transpose|concat|split|slice|gather|scatter|flatten|tile|expand|pad|resize|upsample|depthtospace|spacetodepth|stack|copyfrom|^(shape|size|identity|cast|castlike|constantofshape|range|onehot|copy|resizenearest|stopgradient|externalconstant|nonzero|compress|unique|trilu|eyelike|where|select|reversesequence)$/,
  ],
  [
    "arithmetic",
    /^(add|sub|mul|div|pow|sqrt|rsqrt|sqr|exp|log|log2|neg|abs|sum|mean|min|max|mod|floor|ceil|round|rcp|reciprocal|sign|sin|cos|tan|asin|acos|atan|sinh|cosh|equal|eq|ne|greater|gt|ge|less|lt|le|lessorequal|greaterorequal|and|or|not|xor|reduce.*|.*reduce|cumsum|bit.*|eltwise|quantize.*|dequantize.*|dynamicquantize.*|isnan|isinf|einsum|scale)$/,
  ],
];

const known = new Map<string, Category>();

export function categoryOf(op: string): Category {
  let category = known.get(op);
  if (category === undefined) {
    const name = op.slice(0, 60).toLowerCase().replaceAll("_", "");
    category = ROWS.find(([, pattern]) => pattern.test(name))?.[0] ?? "other";
    if (known.size < 5000) known.set(op, category);
  }
  return category;
}
