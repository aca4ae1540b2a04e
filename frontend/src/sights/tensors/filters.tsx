// The filters of a convolution as images, so many at a time; in colours where they see three channels.

import { useMemo, useState } from "preact/hooks";
import type { Tiles } from "../../answers";
import { type Binary, isReport } from "../../ask";
import { useBinary } from "../../asking";
import { pageColour, useCanvas, useDark } from "../../components/canvas";
import { colourOf, type Rgb, type Scale } from "../../components/colour";
import { Legend } from "../../components/legend";
import { Waiting } from "../../components/waiting";
import { count } from "../../format";

const PAGE = 64;
const GAP = 4;

/** The images of a page, one pixel an element. */
function picturesOf({ head, data }: Binary<Tiles>, scale: Scale, dark: boolean): HTMLCanvasElement[] {
  const area = head.rows * head.cols;
  return Array.from({ length: head.count }, (_, tile) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [head.cols, head.rows];
    const ink = canvas.getContext("2d");
    if (!ink || area === 0) return canvas;
    const image = ink.createImageData(head.cols, head.rows);
    const [low, span] = [head.low ?? 0, (head.high ?? 1) - (head.low ?? 0) || 1];
    for (let i = 0; i < area; i += 1) {
      const from = (tile * area + i) * head.channels;
      const one = data[from] as number;
      const colour: Rgb =
        head.channels === 3 && [0, 1, 2].every((channel) => Number.isFinite(data[from + channel]))
          ? [0, 1, 2].map((channel) => (255 * ((data[from + channel] as number) - low)) / span) as unknown as Rgb
          : colourOf(head.channels === 3 ? NaN : one, scale, dark);
      image.data.set(colour, i * 4);
      image.data[i * 4 + 3] = 255;
    }
    ink.putImageData(image, 0, 0);
    return canvas;
  });
}

export function Filters({ base }: { base: string }) {
  const [asked, setAsked] = useState({ layout: "", first: 0 });
  const path = asked.layout || asked.first ? `${base}/tiles?${asked.layout ? `layout=${asked.layout}&` : ""}first=${asked.first}&count=${PAGE}` : `${base}/tiles`;
  const tiles = useBinary<Tiles>(path);
  const found = tiles.answer;
  const head = found?.head;
  const go = (first: number) => setAsked({ layout: head?.layout ?? asked.layout, first: Math.max(0, first) });
  return (
    <div class="tensors-filters">
      <div class="tensors-row">
        {!isReport && (
          <label>
            layout{" "}
            <select value={head?.layout ?? asked.layout} onChange={(event) => setAsked({ layout: event.currentTarget.value, first: 0 })}>
              {!(head?.layout ?? asked.layout) && <option value="">unknown</option>}
              <option value="oihw">out, in, height, width</option>
              <option value="hwio">height, width, in, out</option>
            </select>
          </label>
        )}
        {head && !isReport && (
          <span role="group" aria-label="Page of filters">
            <button disabled={head.first === 0} onClick={() => go(head.first - PAGE)}>
              Before
            </button>{" "}
            <button disabled={head.first + head.count >= head.of} onClick={() => go(head.first + head.count)}>
              Next
            </button>
          </span>
        )}
        {head && (
          <span class="soft" role="status">
            {head.count ? `${count(head.first)} to ${count(head.first + head.count - 1)} of ${count(head.of)}` : "none"}, {head.rows} × {head.cols}
            {head.channels === 3 ? ", in colours" : ""}
          </span>
        )}
      </div>
      {found ? <Sheet found={found} /> : <Waiting asked={tiles} what="reading filters" />}
    </div>
  );
}

function Sheet({ found }: { found: Binary<Tiles> }) {
  const dark = useDark();
  const { head, data } = found;
  const most = Math.max(Math.abs(head.low ?? 0), Math.abs(head.high ?? 0)) || 1;
  const scale: Scale = { low: -most, high: most, diverging: true };
  const sheet = useMemo(() => picturesOf(found, scale, dark), [found, dark]);
  const [over, setOver] = useState<number | null>(null);
  const [width, setWidth] = useState(400);
  // Whole multiples of an element, so that all are equally large.
  const enlarged = Math.max(1, Math.floor(40 / Math.max(1, head.cols)));
  const [wide, high] = [head.cols * enlarged, head.rows * enlarged];
  const across = Math.max(1, Math.floor((width + GAP) / (wide + GAP)));
  const down = Math.ceil(head.count / across);
  const canvas = useCanvas(
    (ink, now) => {
      if (now !== width) {
        setWidth(now);
        return;
      }
      const edge = pageColour("--line");
      ink.imageSmoothingEnabled = false;
      sheet.forEach((picture, i) => {
        const [x, y] = [(i % across) * (wide + GAP), Math.floor(i / across) * (high + GAP)];
        if (picture.width && picture.height) ink.drawImage(picture, x, y, wide, high);
        ink.strokeStyle = i === over ? pageColour("--ink") : edge;
        ink.lineWidth = i === over ? 2 : 1;
        ink.strokeRect(x + 0.5, y + 0.5, wide - 1, high - 1);
      });
    },
    [sheet, over, width, dark],
  );
  const each = data.length && head.count ? data.length / head.count : 0;
  const told = useMemo(() => {
    if (over === null || each === 0) return "";
    const part = data.subarray(over * each, (over + 1) * each);
    const low = part.reduce((least, value) => Math.min(least, value), Infinity);
    const high = part.reduce((largest, value) => Math.max(largest, value), -Infinity);
    return `image ${head.first + over}: ${low.toPrecision(4)} to ${high.toPrecision(4)}`;
  }, [over, data]);
  return (
    <>
      <canvas
        ref={canvas}
        role="img"
        tabIndex={0}
        aria-label={`${head.count} filters of ${head.rows} by ${head.cols}; left and right tell of each`}
        style={{ height: Math.max(1, down * (high + GAP)), width: "100%", display: "block" }}
        onPointerMove={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          const col = Math.floor((event.clientX - box.left) / (wide + GAP));
          const tile = Math.floor((event.clientY - box.top) / (high + GAP)) * across + col;
          setOver(col < across && tile < head.count ? tile : null);
        }}
        onPointerLeave={() => setOver(null)}
        onKeyDown={(event) => {
          const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
          if (!step || head.count === 0) return;
          event.preventDefault();
          setOver(Math.max(0, Math.min(head.count - 1, (over ?? (step > 0 ? -1 : head.count)) + step)));
        }}
      />
      <p class="soft tensors-told" role="status">
        {told || "each is scaled to the lowest and highest of this page"}
      </p>
      {head.channels === 1 && <Legend scale={scale} data={data} robust={false} />}
    </>
  );
}
