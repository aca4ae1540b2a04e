// What canvases need: the size of their box in real pixels, and redrawing once a frame.

import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { onTheme } from "../theme";

export type Draw = (ink: CanvasRenderingContext2D, width: number, height: number) => void;

/** Draw on a canvas whenever an input or its size changes; sizes are CSS pixels. */
export function useCanvas(draw: Draw, inputs: unknown[]): RefObject<HTMLCanvasElement> {
  const canvas = useRef<HTMLCanvasElement>(null);
  const latest = useRef(draw);
  latest.current = draw;
  const redraw = useRef(() => {});
  useEffect(() => {
    const element = canvas.current as HTMLCanvasElement;
    let frame = 0;
    const paint = () => {
      const { clientWidth: width, clientHeight: height } = element;
      const ink = element.getContext("2d");
      if (!ink || width === 0 || height === 0) return;
      const dots = window.devicePixelRatio || 1;
      const [wide, high] = [Math.round(width * dots), Math.round(height * dots)];
      if (element.width !== wide || element.height !== high) [element.width, element.height] = [wide, high];
      ink.setTransform(dots, 0, 0, dots, 0, 0);
      ink.clearRect(0, 0, width, height);
      latest.current(ink, width, height);
    };
    redraw.current = () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(paint);
    };
    const watch = new ResizeObserver(() => redraw.current());
    watch.observe(element);
    return () => {
      cancelAnimationFrame(frame);
      watch.disconnect();
    };
  }, []);
  useEffect(() => redraw.current(), inputs);
  return canvas;
}

function isDark(): boolean {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Whether the page is dark now: canvases know no CSS variables. */
export function useDark(): boolean {
  const [dark, setDark] = useState(isDark);
  useEffect(() => onTheme(() => setDark(isDark())), []);
  return dark;
}

/** A colour of the page, by the name of its variable: ink("--soft"). */
export function pageColour(name: string): string {
  // light-dark() is settled only in a property that is used, so the colour is read from one.
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  probe.style.forcedColorAdjust = "none"; // Colours are not forced upon canvases.
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
