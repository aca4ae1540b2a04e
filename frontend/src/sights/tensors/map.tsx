// The sizes as a map: of the branch that is gone into, its parts as areas.

import { Treemap } from "../../components/treemap";
import { bytes, many } from "../../format";
import { plain } from "../../names";
import { share } from "./columns";
import { above, folded, forked, isBranch, labelOf, pathOf, ROOT, type Totals, type Tree } from "./tree";

interface SizeMapProps {
  tree: Tree;
  totals: Totals;
  /** Bytes of all that is listed, whether searched for or not. */
  all: number;
  under: number;
  onUnder: (node: number) => void;
  tensor: number;
  onTensor: (tensor: number) => void;
}

export function SizeMap({ tree, totals, all, under, onUnder, tensor, onTensor }: SizeMapProps) {
  const root = under > 0 && under < tree.labels.length && isBranch(tree, under) ? under : forked(tree);
  const way = [...above(tree, root), ...(root === ROOT ? [] : [root])].filter((node) => folded(tree, node) === node);
  const nbytes = (node: number) => totals.nbytes[node] as number;
  const found = nbytes(ROOT);
  const tell = (node: number) => {
    const held = isBranch(tree, node) ? `, ${many(totals.count[node] as number, "tensor")}` : "";
    return `${plain(pathOf(tree, node), 300)}: ${bytes(nbytes(node))}, ${share(nbytes(node), all)}${held}`;
  };
  return (
    <div>
      <nav class="tensors-way" aria-label="Branch">
        <button aria-current={way.length === 0 ? "page" : undefined} onClick={() => onUnder(ROOT)}>
          all {bytes(found)}
        </button>
        {way.map((node) => (
          <button key={node} aria-current={node === root ? "page" : undefined} onClick={() => onUnder(node)}>
            {plain(labelOf(tree, node), 60)} <small>{bytes(nbytes(node))}</small>
          </button>
        ))}
      </nav>
      {nbytes(root) === 0 ? (
        <p class="soft">there are no bytes here</p>
      ) : (
        <Treemap
          root={root}
          size={nbytes}
          parts={(node) => tree.children[node === root ? root : folded(tree, node)]}
          name={(node) => plain(labelOf(tree, folded(tree, node)), 80)}
          amount={(node) => bytes(nbytes(node))}
          tell={(node) => tell(folded(tree, node))}
          isSelected={(node) => tensor >= 0 && folded(tree, node) === tree.nodes[tensor]}
          chosen={tensor}
          onChoose={(part) => {
            const node = folded(tree, part);
            if (isBranch(tree, node)) onUnder(node);
            else onTensor(tree.tensors[node] as number);
          }}
          version={totals}
          height={Math.max(240, Math.min(560, window.innerHeight - 250))}
        />
      )}
      <p class="soft">By keyboard the same sizes are in the tree, in the column Size.</p>
    </div>
  );
}
