// The canvas that a scene is seen on: the camera, and what the pointer, the wheel and keys do to it.

import { onTheme } from "../../theme";
import { coloursIn, type Colours } from "./colours";
import { paint, type Camera, type Marks } from "./paint";
import type { Scene } from "./scene";

export interface StageEvents {
  choose: (box: number) => void;
  open: (box: number) => void;
}

const LARGEST = 4;
const CLICK = 5;

export class Stage {
  camera: Camera = { x: 0, y: 0, scale: 1 };
  private marks: Marks = { chosen: -1, hovered: -1, pieces: new Set(), boxes: new Set(), ring: false };
  private scene: Scene | null = null;
  private readonly pen: CanvasRenderingContext2D;
  private colours: Colours;
  private frame = 0;
  private flight = 0;
  private width = 0;
  private height = 0;
  private readonly pointers = new Map<number, { x: number; y: number }>();
  private travelled = 0;
  private readonly ends: (() => void)[] = [];

  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly events: StageEvents,
  ) {
    this.pen = canvas.getContext("2d", { alpha: false })!;
    this.colours = coloursIn(canvas.parentElement!);
    this.ends.push(
      onTheme(() => {
        this.colours = coloursIn(canvas.parentElement!);
        this.draw();
      }),
    );
    const sizes = new ResizeObserver(() => this.resize());
    sizes.observe(canvas);
    this.ends.push(() => sizes.disconnect());
    this.resize();
    const on = <K extends keyof HTMLElementEventMap>(name: K, act: (event: HTMLElementEventMap[K]) => void, options?: AddEventListenerOptions) => {
      canvas.addEventListener(name, act, options);
      this.ends.push(() => canvas.removeEventListener(name, act));
    };
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.release(event));
    on("pointercancel", (event) => this.pointers.delete(event.pointerId));
    on("pointerleave", () => this.hover(-1));
    on("wheel", (event) => this.wheel(event), { passive: false });
    on("dblclick", (event) => {
      const box = this.boxAt(event.offsetX, event.offsetY);
      if (box >= 0) this.events.open(box);
    });
    for (const name of ["focus", "blur"] as const) on(name, () => this.draw());
  }

  end(): void {
    cancelAnimationFrame(this.frame);
    cancelAnimationFrame(this.flight);
    for (const end of this.ends) end();
  }

  /** Show a scene: all of it where it can be read then, else its top. */
  show(scene: Scene | null): void {
    this.scene = scene;
    this.mark(-1);
    if (!scene) return;
    this.fit();
    if (this.camera.scale >= 0.45) return;
    const { layout, picture } = scene;
    const first = picture.boxes.findIndex((box) => box.kind === "input");
    const top = first >= 0 && layout.ys[first]! < 400 ? scene.middle(first)[0] : layout.left + layout.width / 2;
    const scale = 0.8;
    this.camera = { x: top - this.width / 2 / scale, y: layout.top - 24 / scale, scale };
  }

  /** Mark a box as chosen, with all it touches. */
  mark(chosen: number): void {
    const around = this.scene && chosen >= 0 ? this.scene.around(chosen) : { pieces: new Set<number>(), boxes: new Set<number>() };
    this.marks = { ...this.marks, chosen, ...around };
    this.draw();
  }

  draw(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (!this.width) return;
      if (!this.scene) {
        this.pen.fillStyle = this.colours.paper; // a canvas that nothing was painted on is black
        this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
        return;
      }
      this.marks.ring = document.activeElement === this.canvas;
      paint(this.pen, this.scene, this.camera, this.width, this.height, this.ratio, this.colours, this.marks);
    });
  }

  private get ratio(): number {
    return Math.min(3, window.devicePixelRatio || 1);
  }

  private resize(): void {
    const { clientWidth, clientHeight } = this.canvas;
    this.width = clientWidth;
    this.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * this.ratio);
    this.canvas.height = Math.round(clientHeight * this.ratio);
    this.draw();
  }

  private get whole(): number {
    if (!this.scene) return 1;
    const { width, height } = this.scene.layout;
    return Math.min((this.width - 40) / Math.max(1, width), (this.height - 40) / Math.max(1, height), 1.4);
  }

  fit(): void {
    if (!this.scene) return;
    const { left, top, width, height } = this.scene.layout;
    const scale = Math.max(this.whole, 1e-4);
    this.fly({ scale, x: left + width / 2 - this.width / 2 / scale, y: top + height / 2 - this.height / 2 / scale }, false);
  }

  pan(dx: number, dy: number): void {
    cancelAnimationFrame(this.flight);
    this.camera.x -= dx / this.camera.scale;
    this.camera.y -= dy / this.camera.scale;
    this.draw();
  }

  /** Zoom at a point of the canvas; by default at its middle. */
  zoom(by: number, atX = this.width / 2, atY = this.height / 2): void {
    cancelAnimationFrame(this.flight);
    const { x, y, scale } = this.camera;
    const next = Math.min(LARGEST, Math.max(scale * by, Math.min(this.whole / 2, scale)));
    this.camera = { scale: next, x: x + atX / scale - atX / next, y: y + atY / scale - atY / next };
    this.draw();
  }

  /** Bring a box to the middle, close enough to be read; only if it is not in view, where `gently`. */
  centre(box: number, gently = false): void {
    if (!this.scene?.picture.boxes[box]) return;
    const [x, y] = this.scene.middle(box);
    const { camera } = this;
    const atX = (x - camera.x) * camera.scale;
    const atY = (y - camera.y) * camera.scale;
    const inView = atX > 40 && atX < this.width - 40 && atY > 40 && atY < this.height - 40;
    if (gently && inView && camera.scale >= 0.4) return;
    const scale = Math.max(camera.scale, 0.8);
    this.fly({ scale, x: x - this.width / 2 / scale, y: y - this.height / 2 / scale }, true);
  }

  private fly(to: Camera, animated: boolean): void {
    cancelAnimationFrame(this.flight);
    if (!animated || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.camera = to;
      this.draw();
      return;
    }
    const from = this.camera;
    const start = performance.now();
    const step = () => {
      const part = Math.min(1, (performance.now() - start) / 260);
      const eased = 1 - (1 - part) ** 3;
      const between = (one: number, other: number) => one + (other - one) * eased;
      this.camera = { x: between(from.x, to.x), y: between(from.y, to.y), scale: between(from.scale, to.scale) };
      this.draw();
      if (part < 1) this.flight = requestAnimationFrame(step);
    };
    this.flight = requestAnimationFrame(step);
  }

  private boxAt(x: number, y: number): number {
    const { camera } = this;
    return this.scene?.at(camera.x + x / camera.scale, camera.y + y / camera.scale, 2 / camera.scale) ?? -1;
  }

  private hover(box: number): void {
    if (box === this.marks.hovered) return;
    this.marks.hovered = box;
    this.canvas.style.cursor = box >= 0 ? "pointer" : "";
    this.draw();
  }

  private press(event: PointerEvent): void {
    this.canvas.setPointerCapture(event.pointerId);
    if (!this.pointers.size) this.travelled = 0;
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
  }

  private move(event: PointerEvent): void {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.hover(this.boxAt(event.offsetX, event.offsetY));
      return;
    }
    const now = { x: event.offsetX, y: event.offsetY };
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const apart = Math.hypot(before.x - other.x, before.y - other.y) || 1;
      const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
      this.zoom(Math.hypot(now.x - other.x, now.y - other.y) / apart, middle.x, middle.y);
      this.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
      this.travelled = Infinity;
    } else {
      this.travelled += Math.hypot(now.x - before.x, now.y - before.y);
      if (this.travelled > CLICK) this.pan(now.x - before.x, now.y - before.y);
    }
    this.pointers.set(event.pointerId, now);
  }

  private release(event: PointerEvent): void {
    const pressed = this.pointers.delete(event.pointerId);
    if (pressed && this.travelled <= CLICK) this.events.choose(this.boxAt(event.offsetX, event.offsetY));
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
    if (event.shiftKey) this.pan(-(event.deltaX || event.deltaY) * lines, 0);
    else this.zoom(Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 120 : 420)), event.offsetX, event.offsetY);
  }
}
