// Which part of a matrix is in view, in rows and columns (fractions too), and moving it.

export interface View {
  top: number;
  left: number;
  rows: number;
  cols: number;
}

export interface Extent {
  rows: number;
  cols: number;
}

/** All of it. */
export function all({ rows, cols }: Extent): View {
  return { top: 0, left: 0, rows: Math.max(1, rows), cols: Math.max(1, cols) };
}

/** The view moved back to where there is something. */
export function held(view: View, whole: Extent): View {
  const rows = Math.min(Math.max(view.rows, Math.min(2, whole.rows)), Math.max(1, whole.rows));
  const cols = Math.min(Math.max(view.cols, Math.min(2, whole.cols)), Math.max(1, whole.cols));
  return {
    rows,
    cols,
    top: Math.max(0, Math.min(view.top, whole.rows - rows)),
    left: Math.max(0, Math.min(view.left, whole.cols - cols)),
  };
}

/** Nearer (below 1) or farther (above) around a place that stays where it is. */
export function zoomed(view: View, whole: Extent, factor: number, row: number, col: number): View {
  const size = held({ ...view, rows: view.rows * factor, cols: view.cols * factor }, whole);
  return held(
    {
      ...size,
      top: row - ((row - view.top) / view.rows) * size.rows,
      left: col - ((col - view.left) / view.cols) * size.cols,
    },
    whole,
  );
}

export function moved(view: View, whole: Extent, rows: number, cols: number): View {
  return held({ ...view, top: view.top + rows, left: view.left + cols }, whole);
}

/** The view moved as little as needed to show a cell. */
export function showing(view: View, whole: Extent, row: number, col: number): View {
  const top = row < view.top ? row : row + 1 > view.top + view.rows ? row + 1 - view.rows : view.top;
  const left = col < view.left ? col : col + 1 > view.left + view.cols ? col + 1 - view.cols : view.left;
  return held({ ...view, top, left }, whole);
}

export function isAll(view: View, whole: Extent): boolean {
  return view.rows >= whole.rows && view.cols >= whole.cols;
}
